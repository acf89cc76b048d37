"""Rows: the thirty faults, what must happen, and which tests show it. Those without a test here show it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A fault. `when`: D download, L load, J join, P prefill, G generation, I idle.

    `shown_by` are tests elsewhere, by file and name, that show it or a part of it; `injected` says how they inject it.
    `left` says what no test shows.
    """

    number: int
    fault: str
    when: str
    wanted: str
    injected: str = ""
    shown_by: tuple[str, ...] = ()
    left: str = ""


ROWS = (
    Row(1, "kill -9 of a middle stage", "G", "the answer continues with the same tokens"),
    Row(2, "kill -9 of the first, of the last stage", "G", "as 1"),
    Row(3, "kill -9 during prefill", "P", "the answer comes, with the same tokens"),
    Row(
        4,
        "kill -9, and the rest is too small",
        "G",
        "error within 10 s, the partial text stays; works when the node is back",
    ),
    Row(5, "kill -9 of the coordinator's node", "G", "another node takes over, the workers keep what they hold"),
    Row(6, "SIGSTOP for 3 s; for long", "G", "a stall; lost, and back after SIGCONT"),
    Row(
        7,
        "one-way partition",
        "G, J",
        "both sides agree that it is lost; no half-joined node",
        "three network namespaces: a wrong hardware address in one, a port of the switch off",
        (
            "tests/cluster/test_partitions.py::"
            "test_both_ends_of_a_way_that_works_in_one_direction_say_that_the_other_is_lost",
            "tests/cluster/test_partitions.py::test_a_coordinator_that_is_cut_off_serves_nothing_and_the_others_go_on",
        ),
        left="a node that joins while the network is cut in one direction",
    ),
    Row(8, "black hole: nothing arrives, nothing is closed", "G", "seen within 5 s, then as 1"),
    Row(9, "RST on all links between two nodes", "G", "reconnects, no position twice"),
    Row(10, "200 ms +- 100 ms and 1 MB/s on a link", "G", "slow and right, no false death"),
    Row(11, "a frame cut in the middle; flipped bits", "G", "refused and sent again, never garbage"),
    Row(
        12,
        "NaN or Inf in hidden states or logits",
        "G",
        "that request fails and names node and layer; others live",
        "a norm of layer 3 is NaN in the node's files",
        (
            "tests/cluster/test_losses.py::test_nan_in_a_layer_fails_its_request_with_node_and_layer_and_no_other",
            "tests/cluster/worker/test_ring.py::test_nan_that_no_stage_admits_names_the_node_that_sent_it",
        ),
    ),
    Row(13, "the client is killed", "P, G", "cancelled on every node, KV bytes back"),
    Row(
        14,
        "memory over 85 % / 95 %",
        "P, G",
        "new requests are refused; the newest gives way, and goes on later",
        "a process takes the memory and gives it back; simulated samples",
        (
            "tests/cluster/worker/test_memory_guard.py::"
            "test_memory_that_runs_out_stops_the_newest_answer_until_there_is_room_and_then_ends_it",
            "tests/cluster/worker/test_memory_guard.py::"
            "test_any_node_that_is_short_refuses_until_it_is_not_or_is_silent",
        ),
    ),
    Row(
        15,
        "a worker that dies at every load",
        "L",
        "three tries with back-off, then a plain message",
        "SIGKILL whenever it loads",
        ("tests/cluster/test_losses.py::test_a_worker_that_dies_while_it_loads_is_tried_again_a_few_times",),
    ),
    Row(
        16,
        "one node id twice (copied folder); one name twice",
        "J",
        "refused with the cure; a suffix and a warning",
        "pure: greetings of two nodes with one id; with one name",
        (
            "tests/cluster/membership/test_membership.py::test_a_copied_folder_of_this_node_is_refused_with_the_cure",
            "tests/cluster/membership/test_membership.py::test_a_name_that_two_have_gets_a_suffix_and_a_warning",
        ),
    ),
    Row(
        17,
        "version skew, minor and major",
        "J",
        "joins; refused with both versions",
        "pure: greetings of other versions",
        (
            "tests/cluster/membership/test_membership.py::test_another_minor_version_may_join",
            "tests/cluster/membership/test_membership.py::"
            "test_another_major_version_is_refused_with_both_named_until_it_is_updated",
        ),
    ),
    Row(
        18,
        "another revision, hash or quantization on a node",
        "L",
        "refused before loading, both hashes printed",
        "another rms_norm_eps in one node's copy",
        ("tests/cluster/test_losses.py::test_another_copy_of_the_model_is_refused_before_loading_with_both_hashes",),
    ),
    Row(
        19,
        "a clock one hour off, or jumping",
        "J, G",
        "no effect",
        "another clock for certificates; other clocks in timelines",
        (
            "tests/cluster/trust/test_joining.py::test_a_clock_that_is_an_hour_off_does_not_keep_a_machine_out",
            "tests/cluster/test_timeline.py::test_hops_fill_what_stages_leave_of_each_round_whatever_the_clocks_say",
            "tests/test_clocks.py::test_only_what_is_listed_reads_the_wall_clock",
        ),
        left="a clock that jumps while an answer is written (no deadline reads the wall clock, by the last test)",
    ),
    Row(
        20,
        "wrong, expired, reused token; foreign authority",
        "J",
        "refused, rate-limited, nothing leaked",
        "real enrolment ports",
        (
            "tests/cluster/trust/test_joining.py::test_a_token_that_is_not_valid_is_refused_without_saying_why",
            "tests/cluster/trust/test_joining.py::test_who_fails_too_often_waits_even_with_a_good_token",
            "tests/cluster/test_strangers.py::test_without_a_certificate_or_with_a_foreign_one_nothing_is_answered",
        ),
    ),
    Row(
        21,
        "random bytes, HTTP on the gRPC port, half-open connections",
        "I",
        "bounded memory, the node lives",
        "1,500 sockets",
        ("tests/cluster/test_strangers.py::test_bytes_that_are_no_tls_and_half_open_connections_harm_nobody",),
    ),
    Row(
        22,
        "oversized message, 2^31 dimensions, wrong dtype",
        "I",
        "refused, the node lives",
        "fields of real calls; damaged frames with right checksums",
        (
            "tests/cluster/test_strangers.py::test_fields_that_cannot_be_are_refused_before_any_work",
            "tests/cluster/worker/test_remote_experts.py::test_a_question_that_does_not_fit_is_refused",
            "tests/fuzz/test_fuzz.py::test_a_parser_returns_a_value_or_raises_our_errors",
        ),
    ),
    Row(
        23,
        "corrupt, truncated, overlapping, padded shard; duplicate key; unknown dtype",
        "L",
        "file and tensor named",
        "damaged files",
        (
            "tests/mlx_moe/checkpoint/test_tensor_file.py::test_a_damaged_header_is_refused",
            "tests/mlx_moe/checkpoint/test_checkpoint.py::test_a_truncated_file_is_refused_with_its_name",
            "tests/mlx_moe/checkpoint/test_fuzz_checkpoint.py::test_flipped_header_bytes_never_crash",
        ),
    ),
    Row(
        24,
        "../../x, an absolute path or an outward link in the index",
        "D, L",
        "refused",
        "indices and links on disk; names in the hub's listing",
        (
            "tests/mlx_moe/checkpoint/test_checkpoint.py::test_an_index_that_leads_out_of_the_directory_is_refused",
            "tests/mlx_moe/checkpoint/test_checkpoint.py::test_a_link_to_a_strangers_file_is_refused",
            "tests/mlx_moe/checkpoint/test_hub.py::test_other_names_are_no_part_of_an_outline",
        ),
    ),
    Row(
        25,
        "hostile chat template",
        "L, P",
        "stopped within 2 s, the server lives",
        "endless loops, 10^10 characters",
        (
            "tests/mlx_moe/text/test_chat_template.py::test_a_hostile_template_is_stopped_and_the_next_one_renders",
            "tests/mlx_moe/text/test_chat_template.py::test_an_endless_template_is_stopped_at_the_deadline",
        ),
    ),
    Row(
        26,
        "disk full, 429, connection lost, kill -9 in a download",
        "D",
        "resumes; a part never looks complete",
        "a stand-in for the hub that resets, cuts, answers 429; SIGKILL of `pull`",
        (
            "tests/mlx_moe/checkpoint/test_hub.py::test_a_momentary_fault_is_repeated_from_where_it_stopped",
            "tests/mlx_moe/checkpoint/test_hub.py::test_a_pull_that_is_killed_several_times_goes_on",
            "tests/cli/test_pull.py::test_a_killed_pull_goes_on_where_it_was",
        ),
    ),
    Row(
        27,
        "prompt over the context; empty; 10 MB body; deep JSON; lone surrogates; NaN temperature",
        "I",
        "refused with code and numbers, before any work",
        "calls of clients and bodies of the HTTP APIs",
        (
            "tests/cluster/test_strangers.py::test_fields_that_cannot_be_are_refused_before_any_work",
            "tests/cluster/gateway/test_question.py::test_any_body_is_a_question_or_refused",
            "tests/cluster/gateway/test_guard.py::test_a_body_has_a_limit_whether_it_says_its_length_or_not",
        ),
    ),
    Row(
        28,
        "port in use; no multicast; VPN interfaces",
        "start, J",
        "who holds it; --peer; only addresses that answered",
        "a socket on the port; no interface with multicast; namespaces with several networks",
        (
            "tests/cluster/membership/test_listening.py::test_a_port_that_is_taken_names_who_has_it",
            "tests/cluster/membership/test_discovery.py::"
            "test_without_multicast_a_node_goes_on_and_says_how_to_name_others",
            "tests/cluster/test_networks.py::test_nodes_are_found_again_whatever_becomes_of_their_addresses",
        ),
    ),
    Row(
        29,
        "a slow reader of a stream",
        "G",
        "held back alone, ended after a limit",
        "a client that does not read",
        (
            "tests/cluster/worker/test_slow_readers.py::"
            "test_a_stream_that_is_not_read_is_held_back_then_ended_and_one_beside_it_does_not_notice",
            "tests/cluster/test_conversations.py::test_a_slow_reader_makes_no_other_wait",
        ),
    ),
    Row(30, "100 cycles of random faults with a printed seed", "all", "no gap, no double, no change; no growth"),
)

NEEDS_A_MAC = (
    "Sleep, jetsam, the local-network permission and Metal need a Mac: not shown. "
    "All rows were measured on Linux with the CPU backend."
)
