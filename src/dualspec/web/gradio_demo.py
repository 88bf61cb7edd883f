"""A gradio page over the same engine as the service: `python -m dualspec.web.gradio_demo`, or `demo()` in a Space.

It takes words and numbers alone: no upload, no path, no address. Whoever needs a service takes `dualspec serve`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import gradio
from pydantic import ValidationError

from dualspec.audio.waveform import read_waveform
from dualspec.model_folder import embedded_bundle
from dualspec.web.messages import Order
from dualspec.web.studio import Studio

QUEUE_SIZE = 8
NOTE = "# dualspec\nWords to two-ear sound. **Use headphones.** Degrees count to the left: 0 front, 90 left, 270 right."


def demo(folder: Path | None = None) -> gradio.Blocks:
    """Build the page.

    Args:
        folder: the model; None is the embedded one.

    Returns:
        Blocks with a bounded queue of one worker; `launch` opens them.
    """
    studio = Studio(folder or embedded_bundle())
    about = studio.about()

    def generate(event: str, azimuth_deg: float, seed: float, steps: float, guidance: float) -> tuple[Any, ...]:
        try:
            place = {"azimuth_deg": float(azimuth_deg) % 360, "location_style": "doa", "seed": int(seed)}
            sampling = {"num_inference_steps": int(steps), "guidance_scale": float(guidance)}
            order = Order.model_validate({"event": event} | place | sampling)
            with tempfile.TemporaryDirectory() as scratch:
                (clip,) = studio.clips(order, Path(scratch), lambda done, num_steps: None)
                waveform, rate = read_waveform(clip.path)
        except ValidationError as error:
            first = error.errors()[0]
            raise gradio.Error(f"{first['loc'][0]}: {first['msg']}") from error
        except (TypeError, ValueError) as error:
            raise gradio.Error(str(error)) from error
        return (rate, (waveform.T * 32767).short().numpy()), clip.record["direction"]

    with gradio.Blocks(title="dualspec", analytics_enabled=False) as page:
        gradio.Markdown(NOTE)
        known = gradio.Dropdown(studio.events, value="rain", label="Sound", allow_custom_value=True)
        azimuth_deg = gradio.Slider(0, 359, value=90, step=1, label="Azimuth, degrees")
        with gradio.Row():
            seed = gradio.Number(0, precision=0, minimum=0, label="Seed")
            steps = gradio.Slider(1, 100, value=about["num_inference_steps"], step=1, label="Steps")
            guidance = gradio.Slider(1, 10, value=about["guidance_scale"], step=0.5, label="Guidance")
        button = gradio.Button("Generate", variant="primary")
        outputs = [
            gradio.Audio(label="Both ears", interactive=False, buttons=["download"]),
            gradio.JSON(label="Where it is heard"),
        ]
        button.click(generate, [known, azimuth_deg, seed, steps, guidance], outputs, api_name="generate")
    return page.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1)


if __name__ == "__main__":
    demo(Path(sys.argv[1]) if len(sys.argv) > 1 else None).launch(server_name="127.0.0.1", share=False)
