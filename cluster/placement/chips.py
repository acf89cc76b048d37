"""Chips: assumed speeds of Macs that have not measured themselves, and node specs such as 8xM4-Pro-64GB.

(M) measured and published, (F) fitted to published decode rates, (A) assumed: a real Mac must confirm it.
Sources: nominal bandwidths from Apple's specifications. Efficiency, microseconds per layer and TFLOPS from a fit to
about 30 published figures (mlx-lm's benchmark table, community benchmark files, exo's charts); other published figures
are predicted within 9 %.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.membership.hardware import Hardware
from cluster.placement.capacity import NodeCapacity
from mlx_moe.errors import InvalidRequestError

SYSTEM_BYTES = 8 << 30
"""(A) Memory left to macOS at the highest safe GPU limit: 56 of 64 GiB go to the GPU."""

MAC_GIGABYTES = (16, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)
"""Memory sizes in GiB with which Macs are sold; it cannot be extended."""

MAX_NODES = 64

SPEC = re.compile(r"(?:(?P<count>\d{1,3})x)?(?P<chip>M\d[\w-]*?)-(?P<gigabytes>\d{1,4})GB", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip. `..._layer_us` is the time of a layer beside reading its bytes: dense, MoE with GQA, MoE with MLA.

    `nominal_gbps` is the specified memory bandwidth in GB/s; weights are read at `efficiency` times this rate. `marks`
    says which numbers are (M), (F) or (A).
    """

    name: str
    nominal_gbps: float
    tflops: float
    efficiency: float = 0.85
    dense_layer_us: float = 60
    moe_layer_us: float = 115
    mla_moe_layer_us: float = 175
    marks: str = "all (A)"


CHIPS = (
    # eff of dense models is .92 (F); TFLOPS of the 20-core GPU
    Chip("M4-Pro", 273, 6.3, 0.87, 46, 115, 175, "eff (A), dense us (F), MoE us (A), TFLOPS (M)"),
    Chip("M4-Max", 546, 11, 0.91, 65, 105, 160, "eff, dense and GQA us (F), MLA us (A), TFLOPS (M)"),
    Chip("M4-Max-32core", 410, 8.8, 0.91, 65, 105, 160, "eff, dense and GQA us (F), MLA us and TFLOPS (A)"),
    Chip("M3-Ultra", 819, 18, 0.82, 71, 175, 267, "eff, us (F), TFLOPS (M)"),
    # TFLOPS (A): 0.27 a GPU core, as M4 Max; four times that from M5 on, which has matrix units in its GPU cores
    Chip("M1", 68, 2.2),
    Chip("M1-Pro", 200, 4.3),
    Chip("M1-Max", 400, 8.6),
    Chip("M1-Ultra", 800, 17),
    Chip("M2", 100, 2.7),
    Chip("M2-Pro", 200, 5.1),
    Chip("M2-Max", 400, 10),
    Chip("M2-Ultra", 800, 20),
    Chip("M3", 100, 2.7),
    Chip("M3-Pro", 150, 4.9),
    Chip("M3-Max", 400, 11),
    Chip("M3-Max-30core", 300, 8.1),
    Chip("M4", 120, 2.7),
    Chip("M5", 153, 11),
    Chip("M5-Pro", 307, 25),
    Chip("M5-Max", 614, 44),
    Chip("M5-Max-32core", 460, 35),
)

_BY_NAME = {chip.name.lower(): chip for chip in CHIPS}

OTHER = Chip("other", 100, 1)
"""Supplies the microseconds per layer for a measured node whose chip is not in CHIPS."""


def gpu_memory_bytes(ram_bytes: int) -> int:
    """Return the part of a Mac's memory that the GPU may use by default: 2/3 up to 36 GiB, 3/4 above."""
    return ram_bytes * 2 // 3 if ram_bytes <= 36 << 30 else ram_bytes * 3 // 4


def find(name: str) -> Chip:
    """Return the chip named like "M4-Pro", or "Apple M4 Pro" as macOS reports it. Raises InvalidRequestError."""
    key = name.lower().removeprefix("apple ").strip().replace(" ", "-")
    if key not in _BY_NAME:
        known = ", ".join(chip.name for chip in CHIPS)
        raise InvalidRequestError(f"chip {name[:80]!r} is not supported; supported are {known}")
    return _BY_NAME[key]


def parse_nodes(text: str) -> list[NodeCapacity]:
    """Return the nodes of a spec: "8xM4-Pro-64GB,1xM3-Ultra-256GB".

    Raises:
        InvalidRequestError: a part cannot be read; the message quotes it and gives an example.
    """
    nodes: list[NodeCapacity] = []
    for part in text.split(","):
        match = SPEC.fullmatch(part.strip())
        if match is None or match["count"] == "0" or match["gigabytes"].strip("0") == "":
            raise InvalidRequestError(f"write nodes as 8xM4-Pro-64GB or M3-Ultra-256GB, got {part[:80]!r}")
        chip, ram_bytes = find(match["chip"]), int(match["gigabytes"]) << 30
        for _ in range(int(match["count"] or 1)):
            name = f"{chip.name.lower()}-{len(nodes) + 1}"
            nodes.append(_capacity(name, name, chip, ram_bytes))
    if len(nodes) > MAX_NODES:
        raise InvalidRequestError(f"{text[:80]!r} are {len(nodes)} nodes; a plan is made for at most {MAX_NODES}")
    return nodes


def assumptions(text: str) -> dict[str, str]:
    """Return a text with the assumptions about each chip in a valid spec, by the chip's name."""
    chips = dict.fromkeys(find(match["chip"]) for match in SPEC.finditer(text))
    return {
        chip.name: f"reads {chip.efficiency:.0%} of {chip.nominal_gbps:g} GB/s; {chip.tflops:g} TFLOPS; "
        f"{chip.dense_layer_us:g} us a dense layer, {chip.moe_layer_us:g} an MoE layer with GQA, "
        f"{chip.mla_moe_layer_us:g} with MLA: {chip.marks}"
        for chip in chips
    }


def measured(node_id: str, name: str, hardware: Hardware) -> NodeCapacity:
    """Return the capacity of a node that measured itself; only its microseconds per layer are assumed from its chip."""
    key = hardware.chip.lower().removeprefix("apple ").strip().replace(" ", "-")
    chip = _BY_NAME.get(key, OTHER)
    on_mac = hardware.backend == "metal"
    return NodeCapacity(
        node_id=node_id,
        name=name,
        memory_bytes=hardware.budget_bytes,
        bandwidth_gbps=hardware.bandwidth_gbps,
        tflops=hardware.matmul_tflops,
        dense_layer_us=chip.dense_layer_us,
        moe_layer_us=chip.moe_layer_us,
        mla_moe_layer_us=chip.mla_moe_layer_us,
        raised_memory_bytes=max(0, hardware.memory_bytes - SYSTEM_BYTES) if on_mac else 0,
        is_mac=on_mac,
    )


def _capacity(node_id: str, name: str, chip: Chip, ram_bytes: int) -> NodeCapacity:
    return NodeCapacity(
        node_id=node_id,
        name=name,
        memory_bytes=gpu_memory_bytes(ram_bytes),
        bandwidth_gbps=chip.efficiency * chip.nominal_gbps,
        tflops=chip.tflops,
        dense_layer_us=chip.dense_layer_us,
        moe_layer_us=chip.moe_layer_us,
        mla_moe_layer_us=chip.mla_moe_layer_us,
        raised_memory_bytes=max(0, ram_bytes - SYSTEM_BYTES),
        is_mac=True,
    )
