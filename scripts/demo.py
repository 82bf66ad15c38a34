"""ResNet-50 from a static network to kernels that skip, on a photograph that ships with scikit-image.

    demo-output/table.txt, table.json      what it costs, static, at rate 1 and at rate .5
    demo-output/skipped.png                which patches were computed, stage by stage

The masks are random, so this shows what skipping costs and saves, not what a trained masker would choose.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import laudc
from laudc.compiled import CompiledModel
from laudc.flops import executed_macs, masker_fused, static_macs
from laudc.plan import Plan
from laudc.preprocess import Preprocessing, load_image
from laudc.program import Program
from laudc.rates import stratified_masks
from laudc.static_network import in_laudc, in_torch
from laudc.timing import interleaved_ms, verdict

OUTPUT = Path(__file__).resolve().parent.parent / "demo-output"
RATE = 0.5
CALLS = 15
SIDE, CAPTION = 336, 28  # pixels of a panel
COMPUTED, SKIPPED = np.array([255.0, 140.0, 0.0]), np.array([0.0, 40.0, 150.0])


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    Image.fromarray(skimage.data.chelsea()).save(OUTPUT / "photograph.png")
    shell("convert", "resnet50", "--paradigm", "spatial", "--force")
    shell("compile", "resnet50-spatial.laud", "--target", "jetson-tx2", "--force")
    shell("compile", "resnet50-spatial.laud", "--target", "cpu", "--force")
    shell("run", "resnet50-spatial.cpu.laud", "photograph.png", "--rate", str(RATE))
    compiled = laudc.load(OUTPUT / "resnet50-spatial.cpu.laud")
    assert isinstance(compiled, CompiledModel)
    assert compiled.plan is not None
    measure(compiled, compiled.plan)
    print(f"\nSee {OUTPUT}: table.txt, table.json, skipped.png, and the compiled networks.")


def shell(*arguments: str) -> None:
    """Runs a laudc command as a user would, in the output folder."""
    print(f"\n$ laudc {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "laudc", *arguments], cwd=OUTPUT, check=True)


def measure(compiled: CompiledModel, plan: Plan) -> None:
    """Writes the table and the picture."""
    program = compiled.lowering.converted
    record = Preprocessing.from_json(program.source["preprocessing"])
    image = load_image(OUTPUT / "photograph.png", record)
    masks = {rate: stratified_masks(compiled.mask_shapes, batch=1, rate=rate, seed=plan.seed) for rate in (1.0, RATE)}
    print("\ncompiling the static network by laudc, to compare", flush=True)
    static: dict[str, Callable[[Tensor], Tensor]] = {"laudc": in_laudc(compiled)}
    static |= in_torch(program, dtype=torch.float32, device="cpu")
    dynamic = f"laudc cpu, rate {RATE} (random masks)"
    variants: dict[str, Callable[[int], object]] = {
        **{f"static, {name}": lambda _, network=network: network(image) for name, network in static.items()},
        "laudc cpu, rate 1 (every mask on)": lambda _: compiled(image, masks[1.0]),
        dynamic: lambda _: compiled(image, masks[RATE]),
    }
    with torch.inference_mode():
        times_ms = interleaved_ms(variants, rounds=CALLS)
    costs = [static_macs(program)] * len(static) + [
        executed_macs(program, masks[rate], masker_fused=masker_fused(compiled.lowering.lowered))
        for rate in (1.0, RATE)
    ]
    rows = [
        {"what": what, "ms": round(statistics.median(ms), 1), "least_ms": round(min(ms), 1), "mmacs": round(macs / 1e6)}
        for (what, ms), macs in zip(times_ms.items(), costs, strict=True)
    ]
    compared = verdict(times_ms[dynamic], {name: times_ms[f"static, {name}"] for name in static})
    report(rows, compared, program, plan)
    compiled(image, masks[RATE])
    picture(photograph(image, record), compiled.decisions, program, plan).save(OUTPUT / "skipped.png")


def report(rows: Sequence[Mapping[str, object]], compared: str, program: Program, plan: Plan) -> None:
    """Prints the table and writes it as text and JSON; `compared` is of the last row with the static ones."""
    facts = {
        "model": program.source["model"],
        "weights": program.source["weights"],
        "paradigm": plan.paradigm,
        "masks": f"random, stratified, rate {RATE}",
        "batch": 1,
        "threads": torch.get_num_threads(),
        "calls": CALLS,
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }
    lines = [f"{'one image':<36} {'median ms':>10} {'least ms':>10} {'MMACs':>8}"]
    lines += [f"{row['what']:<36} {row['ms']:>10} {row['least_ms']:>10} {row['mmacs']:>8}" for row in rows]
    lines += ["", f"rate {RATE}: {compared}", "", *(f"{key}: {value}" for key, value in facts.items())]
    text = "\n".join(lines)
    print(f"\n{text}")
    (OUTPUT / "table.txt").write_text(text + "\n")
    (OUTPUT / "table.json").write_text(json.dumps({"verdict": compared, **facts, "rows": list(rows)}, indent=2) + "\n")


def photograph(image: Tensor, record: Preprocessing) -> Image.Image:
    """What the network saw."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (record.mean, record.std))
    pixels = (image[0] * std + mean).clamp(0, 1).permute(1, 2, 0)
    return Image.fromarray((255 * pixels).round().to(torch.uint8).numpy())


def picture(photo: Image.Image, decisions: Mapping[str, Tensor], program: Program, plan: Plan) -> Image.Image:
    """The photograph, then for each stage the share of its blocks that computed each patch."""
    panels = [(photo, "what the network saw")]
    for stage in sorted({block.stage for block in program.blocks}):
        heat = computed_share(decisions, program, plan, stage)
        panels.append((overlay(photo, heat), f"stage {stage + 1}: {float(heat.mean()):.0%} of patches computed"))
    whole = Image.new("RGB", (SIDE * len(panels), SIDE + 2 * CAPTION), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(15)
    for index, (panel, caption) in enumerate(panels):
        whole.paste(panel.resize((SIDE, SIDE), Image.Resampling.NEAREST), (index * SIDE, CAPTION))
        pen.text((index * SIDE + 6, 5), caption, fill="black", font=font)
    legend = (
        "orange: every block of the stage computed the patch; blue: none did; in between: some of them, the more the "
        f"nearer to orange. Random masks at rate {RATE}."
    )
    pen.text((6, SIDE + CAPTION + 5), legend, fill="black", font=font)
    return whole


def computed_share(decisions: Mapping[str, Tensor], program: Program, plan: Plan, stage: int) -> Tensor:
    """(H, W) of the stage's map: how many of its blocks computed each pixel, as a share."""
    maps = []
    for block in program.blocks:
        for decision in plan.of(block.name) if block.stage == stage else ():
            mask, (height, width) = decisions[decision.key][0], block.out_size
            size = decision.granularity
            maps.append(mask.repeat_interleave(size, 0).repeat_interleave(size, 1)[:height, :width])
    return torch.stack(maps).mean(0)


def overlay(photo: Image.Image, heat: Tensor) -> Image.Image:
    """The photograph under a colour that says how much was computed where."""
    share = Image.fromarray(heat.numpy().astype(np.float32)).resize(photo.size, Image.Resampling.NEAREST)
    weight = np.asarray(share)[..., None]
    colour = weight * COMPUTED + (1 - weight) * SKIPPED
    return Image.fromarray((0.5 * np.asarray(photo) + 0.5 * colour).clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
