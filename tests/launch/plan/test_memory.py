"""Memory by kind, each formula worked by hand on a model whose sizes fit in the head."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.plan.hardware import GIB, Gpus, parse_gpus
from launch.plan.memory import (
    Beside,
    Memory,
    TrainingLoad,
    backward_elements,
    cache_tokens,
    engine_memory,
    layer_bytes,
    reading_elements,
    reading_memory,
    scoring_memory,
    training_memory,
)
from launch.plan.placement import Process, Seat, memory_on, place
from launch.plan.shapes import ModelShape, find_model
from rlenv.core.errors import ConfigError

TINY = ModelShape(
    hidden_size=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, intermediate_size=16, vocab_size=10,
    max_positions=64,
)  # fmt: skip
P, LAYER, LORA = TINY.num_parameters, TINY.layer_parameters, TINY.lora_parameters(8)
LOAD = TrainingLoad(shape=TINY, workers=1, rows=1, row_tokens=10)


LAYER_BYTES = 352 + 2 * 7 * 8
"""Of a token, with an adapter of rank 8 in bfloat16; the sum is below."""
NOW = 10 * 2 * (4 * 16 + 2 * 8)
ENDS = 10 * 8 * (4 + 2)


def test_the_bytes_of_a_layer_are_those_worked_by_hand():
    # h 8, f 16, q 8, k 4; two heads and two norms have a float32 statistic each
    attention, statistics = 2 * 8 + 2 * 4, 4 * (2 + 2)
    norms = 2 * 8 * 4
    copies, feed_forward = 5 * 8 + 8 + 16, 3 * 16
    assert norms + 2 * (copies + attention + feed_forward) + statistics == 352
    assert layer_bytes(TINY, 2, 8) == 352 + 2 * 7 * 8
    assert layer_bytes(TINY, 2, 8, masked=True) == layer_bytes(TINY, 2, 8) + 2 * 8  # keys and values for both heads
    assert layer_bytes(TINY, 4, 8) == 4 * (4 * 8 + attention + 4 * 16 + 7 * 8) + statistics
    assert layer_bytes(TINY, 4) == 4 * (6 * 8 + attention + 4 * 16) + statistics
    assert layer_bytes(TINY, 2) == 2 * norms + 2 * (5 * 8 + 16 + attention + feed_forward) + statistics
    assert backward_elements(TINY) == 4 * 16 + 2 * 8
    assert reading_elements(TINY) == 3 * 8 + 3 * 16


def test_lora_training_holds_weights_adapter_gradients_optimiser_and_activations():
    memory = training_memory(LOAD, runtime=5.0)
    assert memory.weights == 2 * P and memory.adapter == 4 * LORA and memory.optimizer == 12 * LORA
    assert memory.activations == 10 * 2 * LAYER_BYTES + ENDS + NOW  # both layers, and one backward
    assert memory.total == memory.weights + memory.adapter + memory.optimizer + memory.activations + 5.0
    assert memory.host == 2 * P


def test_checkpointing_keeps_one_input_a_layer_and_offloading_moves_those_to_the_host():
    kept = training_memory(replace(LOAD, checkpointing=True))
    one = 10 * (2 * 2 * 8 + LAYER_BYTES) + ENDS + NOW
    assert kept.activations == one
    load = replace(LOAD, shape=replace(TINY, num_layers=1000), checkpointing=True, offload=True)
    moved = training_memory(load)
    assert moved.activations == one
    assert moved.host == max(2 * load.shape.num_parameters, 1000 * 10 * 2 * 8)


def test_an_explicit_mask_is_kept_once_a_layer_in_the_form_that_the_kernel_takes():
    plain, masked = training_memory(LOAD), training_memory(replace(LOAD, masked=True))
    assert masked.activations - plain.activations == 2 * 10 * (10 * 2 + 2 * 8) + 10 * 10  # and once as a boolean


def test_sharding_divides_weights_and_state_and_gathers_two_layers_and_the_embedding():
    memory = training_memory(replace(LOAD, workers=4, shard=True))
    assert memory.weights == 2 * P / 4 + 2 * (2 * LAYER + 80)
    assert memory.adapter == LORA and memory.optimizer == 3 * LORA


def test_unsharded_workers_also_hold_the_gradients_that_they_exchange():
    assert training_memory(replace(LOAD, workers=2)).optimizer == 16 * LORA


def test_training_all_weights_holds_them_in_float32_with_their_moments():
    memory = training_memory(replace(LOAD, lora_rank=None, num_bytes=4))
    assert memory.weights == 4 * P and memory.optimizer == 12 * P and memory.adapter == 0


def test_a_reference_is_a_second_adapter_without_gradients():
    memory = training_memory(replace(LOAD, num_adapters=2))
    assert memory.adapter == 8 * LORA and memory.optimizer == 12 * LORA


def test_logits_are_held_where_there_is_a_loss_only():
    wide = replace(LOAD, shape=replace(TINY, vocab_size=1000), rows=2, logit_share=0.3)
    assert training_memory(wide).logits == pytest.approx(20 * 0.3 * 1000 * 12)
    assert training_memory(LOAD).logits == 0


def test_logits_and_the_backward_pass_of_a_layer_take_turns_and_the_larger_counts():
    small = training_memory(replace(LOAD, logit_share=1.0))  # 10 tokens x 10 words x 12 bytes are less than NOW
    assert small.logits == 0 and small.activations == training_memory(LOAD).activations
    large = training_memory(replace(LOAD, logit_share=1.0, shape=replace(TINY, vocab_size=1000)))
    assert large.logits == 10 * 1000 * 12 and large.activations == training_memory(LOAD).activations - NOW


def test_rows_beside_are_differentiated_while_the_others_wait_with_their_log_softmax():
    words = replace(TINY, vocab_size=1000)
    load = replace(LOAD, shape=words, row_tokens=20, logit_share=0.5, masked=True)
    alone = training_memory(load)
    assert alone.logits == 20 * 0.5 * 1000 * 12
    kept = alone.activations  # of all layers; the logits are more than a layer's backward pass
    for tokens, share in ((10, 0.0), (10, 1.0)):
        memory = training_memory(replace(load, beside=Beside(1, tokens, share)))
        other = training_memory(replace(LOAD, shape=words, row_tokens=tokens, logit_share=share))
        waiting = 20 * 0.5 * 1000 * 4
        first = kept + other.activations + other.logits + waiting
        assert memory.activations + memory.logits == max(first, kept + alone.logits)
    moved = replace(load, checkpointing=True, offload=True, shape=replace(words, num_layers=1000))
    assert training_memory(replace(moved, beside=Beside(2, 10, 0.5))).host == max(
        2 * moved.shape.num_parameters, 1000 * (20 + 2 * 10) * 2 * 8
    )


def test_tiles_of_logits_are_one_buffer_on_a_gpu_and_eight_arrays_on_a_cpu():
    shape = replace(TINY, vocab_size=50_000)
    load = replace(LOAD, shape=shape, rows=2, row_tokens=8192, logit_share=0.5, tiled_logits=True)
    assert training_memory(load).logits == 4096 * 32768 * 2
    assert training_memory(replace(load, on_cpu=True)).logits == 4096 * 32768 * (2 + 7 * 4 + 1)
    small = replace(LOAD, shape=replace(TINY, vocab_size=1000), logit_share=1.0, tiled_logits=True, on_cpu=True)
    assert training_memory(small).logits == 10 * 1000 * 31  # what is not written takes no memory


def test_an_engine_gives_its_key_value_cache_what_weights_and_the_rest_leave():
    memory = engine_memory(
        TINY, tensor_parallel=2, max_num_seqs=3, max_loras=2, max_lora_rank=8, num_bytes=2, budget=1e6, kv_bytes=None,
        runtime=100.0,
    )  # fmt: skip
    assert memory.weights == P and memory.adapter == 2 * LORA * 2
    assert memory.activations == 8192 * 2 * (4 * 8 + (8 + 2 * 4 + 3 * 16) / 2)
    assert memory.logits == 3 * 10 * 4 * 3
    assert memory.kv_cache == 0  # the activations alone exceed the budget
    wide = engine_memory(
        TINY, tensor_parallel=1, max_num_seqs=3, max_loras=0, max_lora_rank=8, num_bytes=2, budget=2e6, kv_bytes=None,
        runtime=100.0,
    )  # fmt: skip
    assert wide.total == 2e6 and cache_tokens(TINY, wide, 1, 2) == int(wide.kv_cache / 32)


def test_a_key_value_head_that_gpus_cannot_divide_is_held_by_each_of_them():
    memory = Memory(kv_cache=3200)
    assert cache_tokens(TINY, memory, 1, 2) == cache_tokens(TINY, memory, 2, 2) == 100


def test_scoring_keeps_the_sessions_cache_a_copy_of_it_and_one_for_each_branch():
    memory = scoring_memory(TINY, row_tokens=10, batch_tokens=16, num_branches=8, num_bytes=2, runtime=1.0)
    assert memory.kv_cache == (1 + 1 + 8) * 10 * 32 and memory.activations == 16 * 72 * 2


def test_reading_holds_weights_the_last_hidden_states_and_a_layer_or_the_logits():
    memory = reading_memory(TINY, row_tokens=10, batch_tokens=16, num_bytes=2, runtime=1.0)
    assert memory.weights == 2 * P and memory.logits == 16 * 10 * (16 + 2)  # more than a layer's 16 x 72 x 2
    assert memory.activations == 16 * 8 * 2
    narrow = replace(TINY, vocab_size=2)
    plain = reading_memory(narrow, row_tokens=10, batch_tokens=16, num_bytes=2, runtime=1.0)
    assert plain.logits == 0 and plain.activations == 16 * (8 + 72) * 2
    masked = reading_memory(narrow, row_tokens=10, batch_tokens=16, num_bytes=2, runtime=1.0, masked=True)
    assert masked.activations - plain.activations == 16 * 10 * 3  # a boolean, and its form in bfloat16
    wide = replace(TINY, vocab_size=100)
    alone = reading_memory(wide, row_tokens=10, batch_tokens=0, num_bytes=4, runtime=1.0)
    assert alone.logits == 10 * 100 * 16  # a CPU reads one row after the other


def test_the_papers_simulator_takes_16_gib_a_gpu_over_eight_and_no_gpu_alone():
    shape = find_model("meta-llama/Llama-3.3-70B-Instruct").shape
    load = TrainingLoad(shape=shape, workers=8, rows=1, row_tokens=256, shard=True, checkpointing=True)
    gathered = 2 * (2 * 855_654_400 + 128_256 * 8192)
    assert training_memory(load).weights == 70_553_706_496 * 2 / 8 + gathered
    assert training_memory(replace(load, shard=False)).weights / GIB == pytest.approx(131.4, abs=0.1)


def test_gpus_are_written_as_nodes_by_gpus_by_gib():
    assert parse_gpus("8x80") == Gpus(1, 8, 80) and parse_gpus("2x8x80").total == 16
    assert parse_gpus("1x24").card[0] == "A10" and parse_gpus("4x94").card[0] == "H100"
    for wrong in ("8", "8*80", "0x80", "axb", ""):
        with pytest.raises(ConfigError, match="expected GPUS x GIB"):
            parse_gpus(wrong)


def test_an_engine_sits_on_one_node_and_shares_of_a_gpu_fill_it_before_the_next():
    gpus, some = Gpus(2, 4, 80), Memory(weights=10.0)
    placed, left = place(
        [Process("a", 3, some), Process("b", 2, some), Process("c", 0.5, some), Process("d", 0.5, some),
         Process("e", 4, some), Process("cpu", 0, some)],
        gpus,
    )  # fmt: skip
    seats = {one.process.name: one.seats for one in placed}
    assert seats["a"] == (Seat(0, 0), Seat(0, 1), Seat(0, 2)) and seats["b"] == (Seat(1, 0), Seat(1, 1))
    assert seats["c"] == seats["d"] == (Seat(0, 3),) and seats["cpu"] == ()
    assert [process.name for process in left] == ["e"]
    assert memory_on(placed)[Seat(0, 3)] == 20.0
