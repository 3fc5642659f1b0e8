"""Which cases of which tests are slow: bare `pytest` leaves them out, `--slow` brings them back.

The number is how many cases of a test bare `pytest` runs, in their order: the first ones of a sweep over many sizes and
models; none of a test that trains, samples whole videos or starts many processes. `tests/test_tiers.py` sees to it that
every name is that of one test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

BARE_CASES = {
    # trainings
    "test_a_killed_training_run_resumes_as_if_it_had_not_been": 0,
    "test_asking_teaches_the_tokens": 0,
    "test_training_lowers_the_loss_and_writes_a_vae_with_channels_of_one_size": 0,
    "test_clips_that_know_nothing_are_not_asked": 0,
    "test_every_token_learns_what_the_caption_says": 0,
    "test_packed_clips_are_as_if_each_were_alone": 1,
    "test_clips_are_noised_as_diffusers_noises_them": 1,
    "test_captions_of_videos_name_the_motion_of_every_object_and_no_other": 0,
    "test_objects_stay_inside_the_picture": 2,
    "test_a_folder_of_videos_is_a_source": 0,
    "test_text_to_video_widens_into_image_to_video": 0,
    "test_a_lora_is_trained_on_a_folder_of_clips": 0,
    "test_two_processes_are_one": 0,
    # whole videos of the demo models, and what judges them
    "test_an_image_starts_a_video_that_obeys_its_prompt": 0,
    "test_any_words_make_a_video": 1,
    "test_any_video_of_the_command_is_made_anew_or_refused": 2,
    "test_diffusers_makes_the_same_video_with_a_demo_model": 1,
    "test_prompts_are_obeyed_whose_combination_was_never_trained": 0,
    "test_a_video_of_the_demo_model_comes_within_35_db": 0,
    "test_off_is_bit_for_bit_the_exact_run_and_a_budget_too_small_for_anything_computes_all": 0,
    "test_time_is_saved_at_a_bounded_cost": 0,
    "test_an_interrupted_run_leaves_the_model_whole": 0,
    "test_a_run_knows_nothing_of_another": 0,
    "test_every_model_takes_every_option": 1,
    "test_other_sizes_and_lengths_are_read": 1,
    "test_distorted_videos_are_read_too": 0,
    "test_what_is_drawn_is_seen": 0,
    "test_words_of_other_scenes_are_right_as_often_as_guesses": 0,
    "test_every_colour_is_recognized_in_front_of_every_background": 2,
    "test_both_objects_of_a_pair_are_seen": 0,
    "test_a_video_turned_round_moves_the_other_way": 3,
    "test_the_demo_models_colours_explain_scenes_they_were_not_fitted_to": 1,
    # commands and other processes
    "test_a_prompt_becomes_an_mp4_with_the_demo_model": 0,
    "test_help_comes_without_loading_a_model": 0,
    "test_options_reach_the_pipeline": 0,
    "test_a_model_is_whole_and_close_to_diffusers": 1,
    "test_a_position_table_is_cut_down_or_the_model_runs_at_its_own_size": 0,
    "test_weights_that_diffusers_reads_otherwise_are_not_close": 0,
    "test_a_triton_that_fails_is_left_with_one_sentence": 0,
    "test_the_text_encoder_needs_no_package_that_comfyui_does_not_need": 0,
    "test_an_interrupted_run_leaves_no_file": 0,
    "test_a_full_disk_is_told_before_the_run": 0,
    "test_fit_preview_writes_colours_next_to_the_vae": 0,
    "test_the_command_fits_and_writes": 0,
    "test_what_may_be_traded_for_speed_reaches_the_pipeline_and_the_file": 0,
    "test_seeds_differ_where_none_is_given": 0,
    "test_a_video_is_made_anew_at_the_rate_that_is_asked_for": 0,
    "test_first_and_last_image_go_to_an_image_to_video_model": 0,
    "test_defaults_are_those_of_the_model": 1,
    "test_the_model_can_be_in_8_bits": 1,
    "test_prompts_are_encoded_without_diffusers_and_accelerate": 0,
    "test_a_file_that_may_not_grow_is_told_and_removed": 0,
    "test_a_folder_without_permission_is_named_before_the_run": 0,
    "test_frame_rate_is_kept": 1,
    # compiled code
    "test_a_compiled_pipeline_in_low_memory_gives_the_numbers_of_a_plain_one": 0,
    "test_a_machine_without_a_compiler_is_told": 0,
    "test_a_schedule_of_about_as_many_steps_takes_the_same_block": 0,
    "test_every_model_compiles_without_a_break": 1,
    "test_loras_come_and_go": 0,
    "test_the_whole_transformer_compiles_without_a_break": 0,
    # sweeps over sizes and models
    "test_a_file_of_any_form_cut_anywhere_ends_in_one_sentence": 20,
    "test_a_damaged_file_ends_in_one_sentence": 20,
    "test_a_damaged_adapter_ends_in_one_sentence": 40,
    "test_a_file_does_what_its_library_does": 24,
    "test_weights_of_few_bits_are_changed_as_they_are_read": 6,
    "test_a_damaged_set_of_shards_ends_in_one_sentence": 16,
    "test_a_damaged_set_of_pickled_shards_ends_in_one_sentence": 14,
    "test_a_damaged_file_that_cannot_be_mapped_ends_in_one_sentence": 10,
    "test_a_damaged_folder_of_a_training_run_ends_in_one_sentence": 12,
    "test_a_damaged_demo_file_is_one_sentence": 8,
    "test_wrong_tensors_in_any_form_end_in_one_sentence": 20,
    "test_wrong_tensors_of_sat_end_in_one_sentence": 6,
    "test_a_forward_pass_equals_the_reference_at_every_size": 5,
    "test_a_golden_is_what_its_script_makes": 2,
    "test_a_larger_picture_is_resized_as_the_reference_does": 1,
    "test_a_last_image_goes_to_the_last_latent_frame": 1,
    "test_a_released_transformer_takes_little_more_than_half": 1,
    "test_a_stream_gives_the_numbers_of_the_reference_in_official_chunks": 3,
    "test_a_video_in_pieces_is_encoded_as_a_whole_one": 6,
    "test_any_frame_count_and_a_portrait_equal_the_reference": 2,
    "test_an_interrupted_run_leaves_everything_as_it_was": 2,
    "test_an_official_folder_loads": 4,
    "test_any_number_of_steps_equals_the_reference": 2,
    "test_bands_of_rows_give_the_numbers_of_the_whole_picture": 3,
    "test_before_the_last_tiles_the_picture_is_that_of_the_reference": 1,
    "test_blended_tiles_are_those_of_the_vae": 0,
    "test_blended_tiles_equal_those_of_the_reference": 1,
    "test_decoding_equals_the_reference": 3,
    "test_encoding_equals_the_reference": 4,
    "test_every_model_gives_the_numbers_of_a_resident_one": 2,
    "test_few_bits_are_nearly_the_same_model": 8,
    "test_full_size_models_have_the_keys_and_shapes_of_the_reference": 1,
    "test_image_latents_have_the_scale_that_is_asked_for": 2,
    "test_half_a_picture_of_one_colour_equals_the_reference": 0,
    "test_image_to_video_equals_the_reference": 2,
    "test_memory_does_not_grow_with_frames": 0,
    "test_memory_is_known_beforehand": 2,
    "test_memory_is_known_on_a_cpu": 0,
    "test_nothing_on_a_device_outlives_its_use": 1,
    "test_no_shape_makes_detection_fail_with_anything_but_its_own_error": 0,
    "test_onednns_numbers": 6,
    "test_other_names_are_the_same_model": 10,
    "test_products": 3,
    "test_text_to_video_equals_the_reference": 2,
    "test_the_error_of_blended_tiles_is_even_over_the_picture": 1,
    "test_video_to_video_equals_the_reference": 1,
    "test_video_to_video_of_1_5_repeats_the_first_latent_in_front": 0,
    "test_given_noise_and_embeddings_equal_the_reference": 1,
    # what is built or measured outside of the tests
    "test_the_page_on_memory_is_what_its_command_prints": 0,
    "test_the_wheel_declares_what_pyproject_says": 0,
    "test_the_wheel_has_the_same_version_and_makes_a_video": 0,
    "test_the_wheel_holds_every_file_of_the_core": 0,
}


def slow_cases(names: Iterable[str]) -> list[bool]:
    """Whether each case is slow, by the name of its test: those after as many as a bare run has."""
    seen: Counter[str] = Counter()
    answers = []
    for name in names:
        seen[name] += 1
        answers.append(seen[name] > BARE_CASES.get(name, seen[name]))
    return answers
