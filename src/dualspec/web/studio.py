"""The model, the judge and the heads of one service, behind the few things that the routes ask of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import dualspec
from dualspec.audio.delivery import DELIVERY_LUFS, deliver, loudness_words
from dualspec.audio.hrir import load_sofa, spherical_head
from dualspec.audio.waveform import audio_info, read_waveform, write_waveform
from dualspec.diffusion.sampler import SamplingConfig
from dualspec.diffusion.variant import VARIANT_PARTS
from dualspec.files import sha256_of
from dualspec.generation import Head, OutputOptions, WrittenClip, draw_clip, generate_clips, model_facts
from dualspec.model_folder import load_judge, load_localizer
from dualspec.pipeline import DualSpecPipeline
from dualspec.placing import Form, place, read_path, set_level
from dualspec.prompt_lists import plan_clips
from dualspec.scenes.score import Plan, Scene, plan_scene
from dualspec.scenes.stage import mix_scene, write_scene
from dualspec.text.prompts import prompt_for
from dualspec.web.messages import FileForm, Order
from dualspec.web.settings import MAX_CLIPS, MAX_SERVED_SCENE_S, MAX_UPLOAD_RATE, MAX_UPLOAD_S


class Studio:
    """Everything that makes or hears sound.

    Args:
        folder: the model.
        device: where it works.
        batch_size: clips denoised at once; with 1 a seed gives the same sound whatever the number of clips.
        sofas: heads (SOFA) for recordings, beside the computed sphere; the first is that of moving sounds.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """

    def __init__(self, folder: Path, *, device: str = "cpu", batch_size: int = 1, sofas: Sequence[Path] = ()) -> None:
        """Load the model, the judge and the heads."""
        self._pipeline = DualSpecPipeline.from_pretrained(folder, device=device)
        self._judge, self._ears = load_judge(folder), load_localizer()
        self._facts, self._batch_size = model_facts(self._pipeline, folder), batch_size
        sphere = spherical_head(sample_rate=MAX_UPLOAD_RATE, num_taps=384)
        self._heads = {"sphere": sphere} | {path.stem: load_sofa(path, sample_rate=MAX_UPLOAD_RATE) for path in sofas}
        rate = self._pipeline.sample_rate
        hrir_set = load_sofa(sofas[0], sample_rate=rate) if sofas else spherical_head(sample_rate=rate)
        self._moving = Head(hrir_set=hrir_set, sha256=sha256_of(sofas[0]) if sofas else None)
        self.events = self._pipeline.events
        self.variants = [{"name": name, "loaded": name == self._facts["variant"]} for name in VARIANT_PARTS]
        self.heads = [{"name": name, "licence": head.licence} for name, head in self._heads.items()]
        self._warm_up()

    def _warm_up(self) -> None:
        """Make and hear one clip: what loads at the first call would hold up the answers of a running service."""
        text = prompt_for("rain", 90.0, "clock")
        output = self._pipeline(text, num_inference_steps=2)
        self._judge.hear(output.audios[0], self._pipeline.sample_rate, 90.0)

    def about(self) -> dict[str, Any]:
        """Describe the model, its defaults, and how its directions are called."""
        sampling, words, directions = self._pipeline.config.sampling, self._pipeline.config.location_words, []
        for azimuth in words.directions("clock"):
            clock = words.describe(azimuth, "clock").removesuffix(" direction")
            directions.append({"azimuth_deg": azimuth, "clock": clock, "general": words.describe(azimuth, "general")})
        return {
            "version": dualspec.__version__,
            "variant": self._facts["variant"],
            "duration_s": self._pipeline.max_duration_s,
            "sample_rate": self._pipeline.sample_rate,
            "loudness_lufs": DELIVERY_LUFS,
            "num_inference_steps": sampling.num_inference_steps,
            "guidance_scale": sampling.guidance_scale,
            "sampler": sampling.sampler,
            "judge": self._judge.facts,
            "moving_head": self._moving.hrir_set.name,
            "num_azimuths": words.num_azimuths,
            "directions": directions,
        }

    def sampling(self, order: Order) -> SamplingConfig:
        """Return how an order is sampled.

        Raises:
            ValueError: its settings cannot be used.
        """
        return self._pipeline.sampling_config(order.num_inference_steps, order.guidance_scale, order.sampler)

    def clips(self, order: Order, folder: Path, on_step: Callable[[int, int], None]) -> Iterator[WrittenClip]:
        """Generate the clips of an order into a folder; `on_step` gets (steps done, steps in all) and may raise."""
        requests = plan_clips(
            [order.prompt(self._pipeline.config.location_words)], folder, seed=order.seed, per_prompt=order.num_clips
        )
        sampling, done = self.sampling(order), itertools.count(1)
        num_steps = sampling.num_inference_steps * -(-len(requests) // self._batch_size)
        on_step(0, num_steps)
        return generate_clips(
            self._pipeline,
            requests,
            model=self._facts,
            sampling=sampling,
            options=OutputOptions(
                subtype="PCM_24", picture=False, judge=self._judge, loudness_lufs=order.loudness_lufs
            ),
            batch_size=self._batch_size,
            on_step=lambda *_: on_step(next(done), num_steps),
        )

    def plan(self, scene: Scene) -> Plan:
        """Work out what a scene takes.

        Raises:
            ValueError: it cannot be made, or not here.
        """
        words = self._pipeline.config.location_words
        plan = plan_scene(scene, sound_s=self._pipeline.max_duration_s, words=words)
        elsewhere = "`dualspec scene` makes larger ones"
        if plan.length_s > MAX_SERVED_SCENE_S:
            raise ValueError(f"events must end within {MAX_SERVED_SCENE_S:g} s, got {plan.length_s:g}; {elsewhere}")
        if plan.num_sounds > MAX_CLIPS:
            raise ValueError(f"events must draw at most {MAX_CLIPS} sounds, got {plan.num_sounds}; {elsewhere}")
        return plan

    def scene(self, scene: Scene, folder: Path, on_step: Callable[[int, int], None]) -> Iterator[WrittenClip]:
        """Make a scene in a folder, with its picture from above; `on_step` as for `clips`."""
        mix, record = mix_scene(
            self._pipeline,
            scene,
            model=self._facts,
            head=self._moving,
            judge=self._judge,
            batch_size=self._batch_size,
            on_step=on_step,
        )
        path = folder / f"scene-seed{scene.seed}.wav"
        yield write_scene(path, mix, self._pipeline.sample_rate, record, self.plan(scene), subtype="PCM_24")

    def picture(self, clip: WrittenClip) -> bytes:
        """Draw both ears of a clip, or read the drawing that is there: PNG."""
        picture = clip.path.with_suffix(".png")
        if not picture.exists():
            draw_clip(*read_waveform(clip.path), clip.record, picture)
        return picture.read_bytes()

    def export(self, clip: WrittenClip, form: FileForm) -> tuple[bytes, str]:
        """Return a clip as a file of another form, and in words the loudness that it got."""
        if form.is_as_made:
            return clip.path.read_bytes(), ""
        waveform, own_rate = read_waveform(clip.path)
        rate = form.sample_rate or own_rate
        waveform, facts = deliver(waveform, own_rate, rate, form.loudness_lufs)
        with TemporaryDirectory(dir=clip.path.parent) as folder:
            target = Path(folder) / f"clip.{form.format}"
            write_waveform(target, waveform, rate, subtype=form.subtype or clip.record.get("subtype", "PCM_16"))
            return target.read_bytes(), loudness_words(facts["loudness"]) if "loudness" in facts else ""

    def archive(self, clips: Sequence[WrittenClip], form: FileForm) -> bytes:
        """Return clips of a form, each with its record, as one ZIP file."""
        packed = BytesIO()
        with ZipFile(packed, "w") as file:
            for clip in clips:
                file.writestr(f"{clip.path.stem}.{form.format}", self.export(clip, form)[0])
                file.writestr(f"{clip.path.stem}.json", json.dumps(clip.record, indent=2, ensure_ascii=False))
        return packed.getvalue()

    def localize(self, recording: Path) -> dict[str, Any]:
        """Say where a two-channel recording is heard.

        Raises:
            ValueError: it is no usable recording.
        """
        return self._ears.listen(recording, max_seconds=MAX_UPLOAD_S)

    def spatialize(
        self, recording: Path, where: float | str, head: str, loudness_lufs: float | None = None
    ) -> tuple[bytes, str]:
        """Render a recording through a head, at an azimuth or on a path such as "0:270,2.5:90".

        Returns:
            WAV, 16 bit, at the recording's rate or 48 kHz, whichever is lower, at a peak of 0.5 or a loudness; and in
            words the loudness that it got.

        Raises:
            ValueError: it is no usable recording, or there is no such head.
        """
        if head not in self._heads:
            raise ValueError(f"head must be one of GET /api/heads, got {head!a:.80}; the sphere is always there")
        direction = read_path(where) if isinstance(where, str) else where
        rate = min(audio_info(recording).sample_rate, MAX_UPLOAD_RATE)
        waveform, _ = read_waveform(recording, sample_rate=rate, mono=True, max_seconds=MAX_UPLOAD_S)
        ears = place(waveform, direction, self._heads[head].resample(rate))
        ears, facts = set_level(ears, rate, Form(loudness_lufs=loudness_lufs))
        target = recording.with_suffix(".wav")
        try:
            write_waveform(target, ears, rate)
            return target.read_bytes(), loudness_words(facts["loudness"]) if facts else ""
        finally:
            target.unlink(missing_ok=True)
