"""ModelConfig: both dialects, and refusals that name the key."""

from typing import Any

import pytest
import transformers

from mlx_moe.config import GQAConfig, MLAConfig
from mlx_moe.errors import CheckpointError, UnsupportedModelError
from mlx_moe.families import cache_costs, mtp_parameters, read_config
from mlx_moe.layers.cache_costs import CacheCosts
from mlx_moe.published_configs import (
    DEEPSEEK_V2_LITE,
    DEEPSEEK_V3,
    DEEPSEEK_V32,
    GLM_4_5_AIR,
    GLM_4_6,
    GLM_5,
    GPT_OSS_20B,
    GPT_OSS_120B,
    KIMI_K2,
    MINIMAX_M2,
    MIXTRAL_8X7B,
    QWEN3_5_35B,
    QWEN3_5_122B,
    QWEN3_5_397B,
    QWEN3_30B,
    QWEN3_235B,
    QWEN3_NEXT_80B,
)
from mlx_moe.summary import model_parameters, parameter_count

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize(
    ("values", "published"),
    [
        (DEEPSEEK_V3, 671_026_419_200),
        (DEEPSEEK_V32, 671_877_944_064),
        (KIMI_K2, 1_026_408_232_448),
        (QWEN3_235B, 235_093_634_560),
        (QWEN3_30B, 30_532_122_624),
        (QWEN3_NEXT_80B, 79_674_391_296),
        (QWEN3_5_397B, 396_346_350_336),
        (MINIMAX_M2, 228_689_764_864),
        (GPT_OSS_20B, 20_914_757_184),
        (GPT_OSS_120B, 116_829_156_672),
        (DEEPSEEK_V2_LITE, 15_706_484_224),
        (MIXTRAL_8X7B, 46_702_792_704),
    ],
)
def test_parameter_totals_are_the_published_ones(values: dict[str, Any], published: int) -> None:
    assert parameter_count(model_parameters(read_config(values))) == published


@pytest.mark.parametrize(
    ("values", "vision", "published"),
    [
        (GLM_5, 0, 753_864_139_008),
        (QWEN3_NEXT_80B, 0, 81_324_862_720),
        (QWEN3_5_35B, 446_571_248, 35_951_822_704),
        (QWEN3_5_122B, 451_290_864, 125_086_497_008),
    ],
)
def test_parameter_totals_with_mtp_layer_and_vision_tower_are_those_of_the_repositories(
    values: dict[str, Any], vision: int, published: int
) -> None:
    config = read_config(values)
    text = model_parameters(config) + mtp_parameters(config)
    assert parameter_count(text) + vision == published


def test_the_indexers_of_deepseek_v3_2_are_what_its_repository_has_more_than_that_of_v3() -> None:
    v3, v32 = (read_config(values) for values in (DEEPSEEK_V3, DEEPSEEK_V32))
    totals = [parameter_count(model_parameters(config) + mtp_parameters(config)) for config in (v3, v32)]
    scales = 62 * (8192 // 128 * 1536 // 128 + 7168 // 128)  # of two matrices of each indexer, in FP8
    assert totals[1] - totals[0] + scales == 685_396_921_376 - 684_531_386_000


@pytest.mark.parametrize(
    ("values", "published", "copies"), [(GLM_4_5_AIR, 110_468_824_832, 2), (GLM_4_6, 356_785_898_816, 0)]
)
def test_parameter_totals_with_the_mtp_layer_are_the_published_ones(
    values: dict[str, Any], published: int, copies: int
) -> None:
    """The MTP layer of the first is published with copies of the embedding and the lm_head."""
    config = read_config(values)
    count = parameter_count([*model_parameters(config), *mtp_parameters(config)])
    assert count + copies * config.vocab_size * config.hidden_size == published


def test_compressed_cache_of_deepseek_v3_is_68_6_kib_a_token() -> None:
    assert cache_costs(read_config(DEEPSEEK_V3), 2) == CacheCosts(0, 61 * 576 * 2)


def test_a_model_none_of_whose_layers_keeps_all_positions_is_refused() -> None:
    types = ["sliding_attention"] * GPT_OSS_20B["num_hidden_layers"]
    with pytest.raises(UnsupportedModelError, match="gpt_oss: all layers have sliding windows"):
        cache_costs(read_config(GPT_OSS_20B | {"layer_types": types}), 2)


def test_both_dialects_read_alike() -> None:
    hub = read_config(DEEPSEEK_V3)
    values = {k: v for k, v in DEEPSEEK_V3.items() if k not in ("rope_theta", "rope_scaling", "scoring_func")}
    scaling = {k: v for k, v in DEEPSEEK_V3["rope_scaling"].items() if k != "type"}
    values["rope_parameters"] = scaling | {"rope_type": "yarn", "rope_theta": 10000}
    assert read_config(values) == hub
    qwen = {k: v for k, v in QWEN3_30B.items() if k not in ("num_experts", "rope_theta")}
    qwen |= {"num_local_experts": 128, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}
    assert read_config(qwen) == read_config(QWEN3_30B)


def test_families_differ_in_attention_and_router() -> None:
    assert isinstance(read_config(DEEPSEEK_V3).attention, MLAConfig)
    assert isinstance(read_config(QWEN3_30B).attention, GQAConfig)
    assert read_config(DEEPSEEK_V3).moe_layers == frozenset(range(3, 62))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"hidden_size": 7168.0, "num_experts_per_tok": 8.0}, {}),
        ({"norm_topk_prob": 1, "attention_bias": 0}, {}),
        ({"attention_bias": None, "norm_topk_prob": None}, {}),
        ({"n_group": None, "topk_group": None}, {"n_group": 1, "topk_group": 1}),
        ({"n_group": 0, "topk_group": -1}, {"n_group": 1, "topk_group": 1}),
        ({"first_k_dense_replace": None}, {"first_k_dense_replace": 0}),
        ({"first_k_dense_replace": -1}, {"first_k_dense_replace": 0}),
        ({"n_shared_experts": None}, {"n_shared_experts": 0}),
        ({"num_nextn_predict_layers": -1}, {"num_nextn_predict_layers": 0}),
        ({"num_nextn_predict_layers": None}, {"num_nextn_predict_layers": 0}),
        ({"q_lora_rank": 0}, {"q_lora_rank": None}),
        ({"rope_theta": 10000.0}, {}),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, {}),
        ({"quantization": []}, {}),
    ],
)
def test_odd_spellings_with_a_clear_meaning_are_read(change: dict[str, Any], same: dict[str, Any]) -> None:
    assert read_config(DEEPSEEK_V3 | change) == read_config(DEEPSEEK_V3 | same)


def test_null_heads_of_qwen3_moe_follow_from_the_others() -> None:
    attention = read_config(QWEN3_30B | {"num_key_value_heads": None, "head_dim": None}).attention
    assert isinstance(attention, GQAConfig)
    assert (attention.num_key_value_heads, attention.head_dim) == (32, 64)


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_moe"])
def test_what_config_json_leaves_out_is_as_in_transformers(family: str) -> None:
    """Keys of sizes have to be there: none of ours guesses them."""
    defaults = transformers.AutoConfig.for_model(family).to_dict()
    sizes = (
        "size",
        "num_hidden",
        "num_attention",
        "_dim",
        "n_routed",
        "num_local",
        "num_experts",
        "_rank",
        "max_position",
    )
    left = {key: value for key, value in defaults.items() if any(size in key for size in (*sizes, "model_type"))}
    assert read_config(left) == read_config(defaults | {"num_mtp_layers": 0, "num_nextn_predict_layers": 0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "4096"}, "hidden_size must be an integer from 1 to 16777216, got '4096'"),
        ({"hidden_size": 2**31}, "hidden_size must be an integer from 1 to 16777216, got 2147483648"),
        ({"hidden_size": True}, "hidden_size must be an integer .*, got True"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer .*, got 0"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers must be an integer from 1 to 1024, got 1000000"),
        ({"n_routed_experts": 10**6}, "n_routed_experts must be an integer from 1 to 8192, got 1000000"),
        ({"n_routed_experts": 8192}, "61 layers of 8,192 experts are more than the 131,072 experts"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a finite number, got nan"),
        ({"n_group": 7}, "8 experts a token cannot be chosen from 4 of 7 groups over 256 experts"),
        ({"rope_scaling": {"type": "yarn", "factor": -1}}, "factor must be a number above 1e-06, got -1"),
        ({"hidden_size": 7168.5}, "hidden_size must be an integer .*, got 7168.5"),
        ({"hidden_size": -1}, "hidden_size must be an integer .*, got -1"),
        ({"qk_rope_head_dim": 63}, "a head has 63"),
        ({"rope_scaling": []}, "rope_scaling must be an object, got \\[\\]"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config(DEEPSEEK_V3 | change)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gemma3"},
        {"rope_scaling": {"type": "longrope"}},
        {"scoring_func": "softmax"},
        {"hidden_act": "gelu"},
        {"model_type": None},
    ],
)
def test_a_sound_file_of_another_kind_is_called_unsupported(change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError):
        read_config(DEEPSEEK_V3 | change)
