"""`dualspec prompts`, `roundtrip`, `evaluate` and `nearest`: from a list of prompts to a judgement."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dualspec.cli.console import print_table, progress, progress_bar
from dualspec.cli.door import note, refuse, usage

if TYPE_CHECKING:
    from torch import Tensor

    from dualspec.data.datasets import ClipBank
    from dualspec.evaluation.measure import EmbedderSource
    from dualspec.evaluation.probe import LoadedProbe
    from dualspec.generation import Head
    from dualspec.hearing.localizer import Localizer


def prompts(
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Text file or list (.jsonl); with --data a folder for list and clips."),
    ],
    events: Annotated[list[str] | None, typer.Argument(help="Events, such as 'dog' 'church bells'.")] = None,
    styles: Annotated[str, typer.Option(help="Location styles, by comma: doa, clock, general.")] = "doa,clock,general",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and of the wording of general descriptions.")] = 0,
    wording: Annotated[Literal["train", "heldout"], typer.Option(help="General words seen in training?")] = "train",
    azimuths: Annotated[
        int, typer.Option(min=1, max=360, help="Directions, evenly spaced from 0; each in the styles that can name it.")
    ] = 12,
    data: Annotated[Path | None, typer.Option(help="Draw a test set from this prepared corpus, not EVENTS.")] = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="Part of --data.")] = "test",
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="Clips of the test set; the paper has 5000.")] = 1000,
    hrir: Annotated[
        Path | None, typer.Option(help="Head (SOFA, or fabian): also write OUTPUT/reference, the true clips.")
    ] = None,
    others: Annotated[
        bool, typer.Option("--others", help="Also OUTPUT/others: other recordings of the labels.")
    ] = False,
) -> None:
    """Write prompts: every event at every azimuth in every style, or a test set of held-out clips.

    With --data OUTPUT/prompts.jsonl is for `dualspec generate --manifest`, and OUTPUT/reference for `dualspec evaluate
    --reference`. Equal seeds draw equal clips and azimuths whatever the styles.
    """
    if bool(events) == (data is not None):
        refuse("one of EVENTS and --data must be given, got both or none; choose one")
    if data is None and (hrir is not None or others):
        refuse("--hrir and --others must come with --data, got EVENTS; leave them out")
    if others and hrir is None:
        refuse("--others must come with --hrir, got none; name a head")
    from dualspec.files import write_text_atomic
    from dualspec.prompt_lists import event_rows, standard_test_set, write_prompt_list

    chosen: Any = [style.strip() for style in styles.split(",")]
    with usage():
        if data is None:
            rows = event_rows(events or [], chosen, seed=seed, wording=wording, num_azimuths=azimuths)
        else:
            draw: dict[str, Any] = {"seed": seed, "split": split, "wording": wording, "num_azimuths": azimuths}
            rows = standard_test_set(data, num, styles=chosen, **draw)
    if data is None:
        if output.suffix == ".jsonl":
            write_prompt_list(output, rows)
        else:
            write_text_atomic(output, "\n".join(row.prompt for row in rows) + "\n")
        print(f"{output}: {len(rows)} prompts")
        return
    output.mkdir(parents=True, exist_ok=True)
    write_prompt_list(output / "prompts.jsonl", rows)
    print(f"{output / 'prompts.jsonl'}: {len(rows)} prompts")
    if hrir is not None:
        from dualspec.cascade import render_references
        from dualspec.generation import OutputOptions

        head, options = read_head(hrir), OutputOptions(picture=False)
        for name in ("reference", "others") if others else ("reference",):
            folder, own = output / name, name == "others"
            steps = render_references(rows, data, head, folder, split=split, options=options, others=own)
            done = progress(name, len(rows), steps)
            left_out = f", {len(rows) - done} left out: no other recording of the label" if done < len(rows) else ""
            print(f"{folder}: {done} clips{left_out}")


def read_head(path: Path) -> Head:
    """Read a head at the judge's rate."""
    from dualspec.audio.hrir import load_sofa
    from dualspec.bundle import head_file
    from dualspec.files import sha256_of
    from dualspec.generation import Head

    return Head(hrir_set=load_sofa(head_file(path)), sha256=sha256_of(head_file(path)))


def roundtrip(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for reference/ and estimate/.")],
    data: Annotated[Path, typer.Option(help="What `dualspec prepare` wrote; its test split is used.")],
    hrir: Annotated[Path, typer.Option(help="Head (SOFA file, or fabian).")],
    model: Annotated[Path | None, typer.Option(help="Model folder.  [default: the embedded one]")] = None,
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="Recordings.")] = 120,
    picture: Annotated[bool, typer.Option("--picture/--no-picture", help="Also draw the spectrograms.")] = False,
) -> None:
    """Encode and decode true clips without diffusion: the most that a model's parts can give."""
    from dualspec.audio.hrir import load_sofa
    from dualspec.bundle import head_file
    from dualspec.generation import OutputOptions, model_facts
    from dualspec.model_folder import embedded_bundle
    from dualspec.pipeline import DualSpecPipeline
    from dualspec.roundtrip import round_trip_clips

    folder = model if model is not None else embedded_bundle()
    pipeline = DualSpecPipeline.from_pretrained(folder)
    head = load_sofa(head_file(hrir), sample_rate=pipeline.sample_rate)
    options, facts = OutputOptions(picture=picture), model_facts(pipeline, folder)
    steps = round_trip_clips(pipeline, data, head, output, num_clips=num, options=options, model=facts)
    done = progress("round trip", num, steps)
    print(f"{output}: {done} clips as reference and estimate")


def evaluate(
    folder: Annotated[Path, typer.Argument(help="Clips, beside each its JSON record; or --manifest.")],
    reference: Annotated[Path | None, typer.Option(help="True clips, of the same names.")] = None,
    hrir: Annotated[
        Path | None, typer.Option(help="Target head (SOFA, or fabian).  [default: the references' cues]")
    ] = None,
    localizer: Annotated[str, typer.Option(help="Judge: paper, robust, a weights folder, or none.")] = "robust",
    embedder: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="mn04_as, yamnet, cnn14_16k, or NAME=FILE: FD, KL, IS; repeatable."),
    ] = None,
    probe: Annotated[
        list[Path] | None,
        typer.Option(help="Which sound is recognised, by `dualspec probe`; repeatable.  [default: the embedded ones]"),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for result and figures.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of measurements, to share.  [default: OUTPUT]")] = None,
    manifest: Annotated[Path | None, typer.Option(help="JSON lines in place of records: file, azimuth_deg, …")] = None,
    compat: Annotated[bool, typer.Option("--compat", help="audioldm_eval's conventions: the left ear alone.")] = False,
    unpaired: Annotated[bool, typer.Option("--unpaired", help="References are another set; no pairs by name.")] = False,
    style: Annotated[Literal["doa", "clock", "general"] | None, typer.Option(help="Only clips of one style.")] = None,
    resample: Annotated[bool, typer.Option("--resample", help="Accept files at other rates than 16 kHz.")] = False,
    copy_mono: Annotated[bool, typer.Option("--copy-mono", help="Accept mono files: equal ears.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.  [default: the GPU, if any]")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Clips measured at once.")] = 16,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes; with cuda over all GPUs.")] = 1,
) -> None:
    """Judge a folder of clips: quality against true clips, and where they are heard against what was asked for.

    Interrupted, the same command goes on where it was. What cannot be measured is named with the reason.
    """
    from dualspec.audio.hrir import load_sofa
    from dualspec.bundle import head_file
    from dualspec.evaluation.clips import Conversion, list_clips
    from dualspec.evaluation.measure import Cache, Measurer
    from dualspec.evaluation.report import check_judgement, judge, markdown_table, write_judgement
    from dualspec.training.processes import check_device

    if unpaired and reference is None:
        refuse("--unpaired must come with --reference, got none; name the other set")
    with usage():
        device = check_device(device)
    clips = [clip for clip in list_clips(folder, manifest=manifest) if style in (None, clip.style)]
    if not clips:
        raise ValueError(f"{folder} must hold clips asked for in the style {style}, got none; leave --style out")
    references = list_clips(reference) if reference is not None else None
    networks, facts = _networks(localizer, embedder or [], probe or [], device)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        check_judgement(output)
    conversion = Conversion(resample=resample, copy_mono=copy_mono)
    how: Any = {"mode": "compat" if compat else "ears", "conversion": conversion, "batch_size": batch_size}
    with progress_bar("measuring", len(clips) * (3 if references else 1)) as show:
        result = judge(
            clips,
            references,
            measurer=Measurer(**networks, **how, device=device),
            cache=Cache(cache if cache is not None else output),
            hrir_set=load_sofa(head_file(hrir)) if hrir is not None else None,
            paired=not unpaired,
            processes=processes,
            on_clips=show,
            **facts,
        )
    if output is not None:
        write_judgement(output, result)
    print(
        json.dumps({key: value for key, value in result.items() if key not in ("rows", "confusion", "clips")}, indent=2)
    )
    if "rows" in result:
        print(markdown_table(result["rows"]))


def _networks(
    localizer: str, embedders: list[str], probes: list[Path], device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the measurer's networks, which every process loads anew, and what the result says of them."""
    networks: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    if localizer != "none":
        from dualspec.model_folder import load_localizer

        loaded = load_localizer(localizer)
        networks |= {"localizer": partial(_localizer, localizer, device), "localizer_sha256": loaded.sha256}
        facts["localizer"] = loaded.facts
    if embedders:
        from dualspec.evaluation.embedders import load_embedder
        from dualspec.evaluation.measure import EmbedderSource

        sources: dict[str, EmbedderSource] = {}
        for spec in embedders:
            with usage():
                own = load_embedder(spec)
            if own.name in sources:
                refuse(f"--embedder must be given once for each name, got {own.name} twice; leave one out")
            sources[own.name] = EmbedderSource(load=partial(load_embedder, spec, device), sha256=own.weights_sha256)
        networks["embedders"] = sources
    facts["probes"] = _probes(networks.get("embedders", {}), probes)
    return networks, facts


def _probes(sources: dict[str, EmbedderSource], folders: list[Path]) -> dict[str, LoadedProbe]:
    """Return the probes that are given and, for the published weights of other embedders, those embedded here."""
    from dualspec.model_folder import PROBES, load_probe

    found: dict[str, LoadedProbe] = {}
    for folder in folders:
        loaded = load_probe(folder)
        name = loaded.probe.config.embedder
        if name in found:
            refuse(f"--probe must be given once for each embedder, got two of {name}; leave one out")
        found[name] = loaded
    for name in (set(PROBES) & set(sources)) - set(found):
        loaded = load_probe(name)
        if loaded.probe.config.embedder_sha256 == sources[name].sha256:
            found[name] = loaded
    return found


def _localizer(name: str, device: str) -> Localizer:
    from dualspec.model_folder import load_localizer

    return load_localizer(name).localizer.to(device)


def nearest(
    folder: Annotated[Path, typer.Argument(help="Clips with their JSON records.")],
    data: Annotated[Path, typer.Option(help="What `dualspec prepare` wrote: the clips that the model was trained on.")],
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="Clips looked at.")] = 10,
    embedder: Annotated[str | None, typer.Option(help="Compare its embeddings (NAME or NAME=FILE), not mels.")] = None,
) -> None:
    """Find the training clip nearest to each generated one: is the model copying?

    The ears of a clip are joined without the comb filter that adding them would give. Beside it stand the distances of
    as many held-out recordings, which cannot be copies.
    """
    import torch

    from dualspec.audio.waveform import crop_or_pad
    from dualspec.data.datasets import load_clips
    from dualspec.evaluation.clips import Conversion, list_clips, read_ears
    from dualspec.evaluation.signal_metrics import nearest_clips
    from dualspec.synthesis.mid_signal import common_phase_mid

    clips = list_clips(folder)
    clips = [clips[index] for index in torch.linspace(0, len(clips) - 1, min(num, len(clips))).long().tolist()]
    ears = [read_ears(clip.path, Conversion()).waveform for clip in clips]
    num_samples = max(waveform.shape[-1] for waveform in ears)
    mono = common_phase_mid(torch.stack([crop_or_pad(waveform, num_samples) for waveform in ears]))
    bank, held_out = (load_clips(data, split, num_samples=num_samples) for split in ("train", "test"))
    true = held_out.float_waveforms(torch.linspace(0, len(held_out) - 1, min(num, len(held_out))).long())
    names = [clip.path.name for clip in clips]
    if embedder is not None:
        _nearest_embedded(embedder, names, mono, bank, true)
        return
    found = nearest_clips(mono, bank)
    rows = [[name, f"{near.distance:.3f}", near.clip_id, near.label] for name, near in zip(names, found, strict=True)]
    print_table(["clip", "distance", "nearest training clip", "its label"], rows)
    for name, neighbours in (("generated", found), ("held-out recordings", nearest_clips(true, bank))):
        distances = torch.tensor([neighbour.distance for neighbour in neighbours])
        print(f"{name}: median {distances.median():.3f}, least {distances.min():.3f} neper ({len(distances)} clips)")


def _nearest_embedded(spec: str, names: list[str], mono: Tensor, bank: ClipBank, held_out: Tensor) -> None:
    """Print the nearest training clips by cosine distance of embeddings."""
    import torch

    from dualspec.evaluation.copying import nearest_in_embedding
    from dualspec.evaluation.embedders import load_embedder

    with usage():
        network = load_embedder(spec)
    known = []
    with progress_bar("training clips", len(bank)) as show:
        for rows in torch.arange(len(bank)).split(64):
            known.append(network(bank.float_waveforms(rows), bank.sample_rate).embeddings)
            show(int(rows[-1]) + 1)
    labels = sorted({labels[0] for labels in bank.labels})
    recordings = sorted({row.recording for row in bank.rows})
    classes = torch.tensor([labels.index(own[0]) for own in bank.labels])
    sources = torch.tensor([recordings.index(row.recording) for row in bank.rows])
    for title, sounds in (("generated", mono), ("held-out recordings", held_out)):
        embeddings = network(sounds, bank.sample_rate).embeddings
        found = nearest_in_embedding(embeddings, torch.cat(known), classes, source_ids=sources)
        if title == "generated":
            cells = zip(names, found.distance.tolist(), found.percentile.tolist(), found.index.tolist(), strict=True)
            rows_out = [
                [name, f"{distance:.3f}", "–" if rank != rank else f"{rank:.0f}", bank.ids[at], bank.labels[at][0]]
                for name, distance, rank, at in cells
            ]
            print_table(["clip", "distance", "percentile", "nearest training clip", "its label"], rows_out)
        print(f"{title}: median {found.distance.median():.3f}, least {found.distance.min():.3f} ({len(sounds)} clips)")
    within = found.class_distances[~found.class_distances.isnan()]
    if len(within):
        print(f"training clips to the nearest of their class: median {within.median():.3f}, least {within.min():.3f}")
    note(f"embedder {network.name}, SHA-256 {network.weights_sha256[:12]}…; a percentile near 0 is a copy")
