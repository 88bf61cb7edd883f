"""Shards with directions rendered on the fly, against the paper's ready stereo files, against what a GPU consumes.

python benchmarks/corpus_throughput.py --data CORPUS        # what `dualspec prepare` wrote
python benchmarks/corpus_throughput.py --clips 400          # made-up clips of 5 s

Rates are clips of 5.12 s per second of one core (processor time, one thread, files in the system's cache), so that a
busy machine does not spoil them. Prints one JSON object.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from dualspec.accounting import recipe_compute
from dualspec.audio.azimuth import NUM_SECTORS, class_azimuth_deg
from dualspec.audio.binaural import normalize_peak, render
from dualspec.audio.hrir import spherical_head
from dualspec.audio.waveform import crop_or_pad, from_pcm16, read_waveform, write_waveform
from dualspec.data.corpora import CorpusSpec
from dualspec.data.datasets import ClipDataset, load_clips
from dualspec.data.manifest import MANIFEST_NAME, ManifestRow, read_manifest, write_manifest
from dualspec.data.prepare import prepare
from dualspec.recipes import get_recipe
from dualspec.training.task import BinauralSource, RenderConfig, StepRandom

NUM_SAMPLES, RATE, BATCH = 81_920, 16_000, 32
PEAK_FLOPS = 790e12  # dense bf16 of one H200
ASSUMED_SHARE = {"paper/dualspec": 0.40, "mini/dualspec": 0.15}  # of that peak; not measured


def made_up(folder: Path, count: int) -> Path:
    """Prepare noise that fades, 5 s each."""
    generator = torch.Generator().manual_seed(0)
    fade = 10 ** torch.linspace(0, -3, 5 * RATE)
    (folder / "clips" / "noise").mkdir(parents=True)
    for index in range(count):
        noise = torch.randn(1, 5 * RATE, generator=generator) * fade * 0.1
        write_waveform(folder / "clips" / "noise" / f"{index}.wav", noise, RATE)
    prepare([CorpusSpec(name="folder", root=folder / "clips")], folder / "corpus")
    return folder / "corpus"


def per_core(work: Callable[[], int]) -> float:
    """Return the clips per second of processor time."""
    begin = time.process_time()
    count = work()
    return count / (time.process_time() - begin)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def shards_and_render(data: ClipDataset, order: Iterable[int], hrirs: torch.Tensor) -> int:
    """Read clips, check their hashes and render each into one direction, in batches."""
    places = list(order)
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        mono = from_pcm16(torch.stack([data[place][0] for place in batch]))
        normalize_peak(render(mono, hrirs[[place % NUM_SECTORS for place in batch]]))
    return len(places)


def ready_files(paths: list[Path]) -> int:
    for path in paths:
        crop_or_pad(read_waveform(path)[0], NUM_SAMPLES)
    return len(paths)


def write_stereo(data: ClipDataset, hrirs: torch.Tensor, folder: Path, count: int) -> list[Path]:
    """Write clips as the paper keeps them: 16-bit stereo files, here one direction of each."""
    paths = []
    for place in range(min(count, len(data))):
        stereo = normalize_peak(render(from_pcm16(data[place][0])[None], hrirs[[place % NUM_SECTORS]]))[0]
        paths.append(folder / f"{place}.wav")
        write_waveform(paths[-1], stereo, RATE)
    return paths


def manifest_facts(folder: Path, num_rows: int) -> dict[str, Any]:
    """Write and read a manifest of so many rows."""
    rows = (
        ManifestRow(
            id=f"fsd50k/{index}",
            corpus="fsd50k",
            recording=f"freesound:{index}",
            labels=("electric guitar", "guitar", "plucked string instrument", "musical instrument", "music"),
            licence="CC-BY",
            attribution=f"Freesound {index} by someone, https://freesound.org/s/{index}/, by way of FSD50K",
            split="train",
            duration_s=5.0,
            num_samples=5 * RATE,
            sha256=f"{index:064x}",
            shard=f"shards/shard-{index // 512:05d}.flac",
            offset=index % 512 * 5 * RATE,
        )
        for index in range(num_rows)
    )
    write_manifest(folder / MANIFEST_NAME, rows)
    before, begin = resident_mb(), time.process_time()
    kept = read_manifest(folder)
    seconds = time.process_time() - begin
    return {
        "rows": len(kept),
        "seconds_of_one_core": round(seconds, 2),
        "bytes_in_memory_per_row": round((resident_mb() - before) * 2**20 / len(kept)),
        "megabytes_on_disk": round((folder / MANIFEST_NAME).stat().st_size / 1e6, 1),
    }


def gpu_needs() -> dict[str, dict[str, float]]:
    """What one H200 would consume, from counted operations (three forwards a step) and an assumed share of its peak."""
    needs = {}
    for name, share in ASSUMED_SHARE.items():
        per_clip = 3 * recipe_compute(get_recipe(name)).step / 2 * 1e9
        needs[name] = {"assumed_share_of_peak": share, "clips_per_s": round(share * PEAK_FLOPS / per_clip, 1)}
    return needs


def measure(corpus: Path, folder: Path) -> dict[str, Any]:
    rows = [row for row in read_manifest(corpus) if row.split == "train"]
    sizes = sum((corpus / shard).stat().st_size for shard in {row.shard for row in read_manifest(corpus)})
    seconds = sum(row.duration_s for row in read_manifest(corpus))
    data, head = ClipDataset(corpus, "train", num_samples=NUM_SAMPLES), spherical_head(sample_rate=RATE)
    hrirs = head.at([float(class_azimuth_deg(sector)) for sector in range(NUM_SECTORS)])
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    shards_and_render(data, shuffled[:BATCH], hrirs)  # warm
    rates, resident = {}, [resident_mb()]
    for part in range(4):  # the memory after each quarter of a pass
        quarter = shuffled[part * len(rows) // 4 : (part + 1) * len(rows) // 4]
        rates[f"quarter {part}"] = per_core(lambda quarter=quarter: shards_and_render(data, quarter, hrirs))
        resident.append(resident_mb())
    shards = 4 / sum(1 / rate for rate in rates.values())
    paths = write_stereo(data, hrirs, folder, 400)
    data.close()
    files = per_core(lambda: ready_files(paths))
    before, begin = resident_mb(), time.process_time()
    bank = load_clips(corpus, "train", num_samples=NUM_SAMPLES)
    loading = len(bank) / (time.process_time() - begin)
    held = (resident_mb() - before) * 2**20 / len(bank)
    source = BinauralSource(bank, head, RenderConfig())

    def draw() -> int:
        for step in range(12):
            source.draw(torch.arange(BATCH) % len(bank), StepRandom(0, step, slice(None), BATCH))
        return 12 * BATCH

    draw()
    memory = per_core(draw)
    clip_s = NUM_SAMPLES / RATE
    return {
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread",
        "train_clips": len(rows),
        "rendered_from_shards_in_random_order": {"clips_per_s": shards, "times_real_time": shards * clip_s},
        "read_from_ready_stereo_files": {"clips_per_s": files, "times_real_time": files * clip_s, "files": len(paths)},
        "rendered_from_memory": {"clips_per_s": memory, "times_real_time": memory * clip_s},
        "shards_against_files": shards / files,
        "memory_against_files": memory / files,
        "filling_the_memory": {"clips_per_s": loading, "bytes_per_clip": held},
        "resident_mb_by_quarters_of_a_pass_over_shards": resident,
        "disk": {
            "shards_bytes_per_clip_second": sizes / seconds,
            "stereo_bytes_per_clip_second_and_direction": sum(path.stat().st_size for path in paths)
            / (len(paths) * clip_s),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="prepared corpus")
    parser.add_argument("--clips", type=int, default=400, help="made-up clips where --data is not given")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the made-up manifest")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = manifest_facts(folder, arguments.rows)
        corpus = arguments.data or made_up(folder, arguments.clips)
        result = measure(corpus, folder) | {"manifest": manifest, "one_h200_not_measured": gpu_needs()}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
