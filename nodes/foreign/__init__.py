"""Workflows of kijai's ComfyUI-CogVideoXWrapper, carried over to our nodes while that pack is not installed.

`table` says what each of its 25 nodes becomes, and is all that is known of them; `convert` rewrites a graph by it;
`prompt` and `workflow` read and write the two formats a graph comes in. ComfyUI calls them through
`nodes/host/features/foreign_workflows.py`. Nothing in this package imports ComfyUI or the rest of the pack.
"""
