"""What tests share: hosts, browsers, checkpoints, writers of weight forms, measures of parity."""
