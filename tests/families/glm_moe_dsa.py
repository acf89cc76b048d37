"""GLM-5 and 5.1."""

from tests.families import deepseek_v32

KNOWN_BY = "GLM-5, 5.1"

CONFIG = {**deepseek_v32.CONFIG, "n_group": 1, "topk_group": 1}

VARIANTS = {"with yarn": deepseek_v32.VARIANTS["with yarn"]}

HUB_LACKS = (*deepseek_v32.HUB_LACKS, "indexer_types")
HUB_ONLY = deepseek_v32.HUB_ONLY

MLX_LM = False  # it reads rope_parameters alone, as GLM-5 is published
