"""`immunize demo`: one photograph through the real service, and what it did to it, as pictures and figures."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from service.client import Client
from service.contracts.errors import ImmunizeError, InputError
from service.contracts.schemas import Job, Report
from service.contracts.settings import PREFIX

PHOTOGRAPH = "astronaut.png"  # inside scikit-image: Eileen Collins, by NASA, public domain
REGION = (120, 250, 420, 512)  # the suit: what somebody might want to repaint
GAIN = 16
START_SECONDS = 60.0


def demo(out: Path) -> None:
    """Start the service on a free port, post a photograph and a mask, wait, write the pictures, stop everything."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {out} cannot be made ({error.strerror}); name another folder") from None
    began = time.monotonic()
    original, mask = out / "original.png", out / "mask.png"
    picture = _photograph()
    picture.save(original)
    region = Image.new("L", picture.size)
    ImageDraw.Draw(region).ellipse(REGION, fill=255)
    region.save(mask)
    with (
        tempfile.TemporaryDirectory(prefix="immunize-demo-") as folder,
        _service(Path(folder)) as address,
        Client(address) as client,
    ):
        _say(began, f"the service runs at {address}; posting {original} and {mask}")
        job = client.submit(original, mask=mask)
        _say(began, f"202, job {job.id}")
        job = client.wait(job.id)
        _say(began, f"finished after {job.attempts} attempt; fetching {job.result.url if job.result else ''}")
        (out / "immunized.png").write_bytes(client.image(job.id))
    assert job.report is not None
    (out / "report.json").write_text(job.report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with Image.open(out / "immunized.png") as immunized:
        difference(picture, immunized.convert("RGB")).save(out / "difference.png")
    _reconstruct(out)
    contact_sheet(out, job.report).save(out / "contact-sheet.png")
    _say(began, "everything is stopped")
    _tell(out, job)


def difference(first: Image.Image, second: Image.Image) -> Image.Image:
    """second - first, sixteen times enlarged, around mid gray."""
    return ImageChops.subtract(second, first, scale=1 / GAIN, offset=128)


def contact_sheet(out: Path, report: Report) -> Image.Image:
    """Every picture of the demo on one sheet, with the figures."""
    cells = (
        ("original.png", "original"),
        (
            "immunized.png",
            f"immunized: at most {report.linf_255}/255 away, PSNR {report.psnr_db} dB, SSIM {report.ssim}",
        ),
        ("difference.png", f"difference x{GAIN}"),
        ("mask.png", "mask: white is what an editor would repaint"),
        ("original-reconstructed.png", "what the model's autoencoder makes of the original"),
        ("immunized-reconstructed.png", "what it makes of the immunized picture"),
    )
    side, band, gap = 384, 34, 12
    font = ImageFont.load_default(15)
    sheet = Image.new("RGB", (3 * side + 4 * gap, 2 * (side + band) + 3 * gap + band), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (name, caption) in enumerate(cells):
        left, top = gap + index % 3 * (side + gap), gap + index // 3 * (side + band + gap)
        with Image.open(out / name) as picture:
            fitted = picture.convert("RGB")
            fitted.thumbnail((side, side), Image.Resampling.LANCZOS)
        draw.text((left, top), caption, fill="black", font=_fitting(caption, side, font))
        sheet.paste(fitted, (left, top + band))
    figures = (
        f"{report.method}/{report.preset} on {', '.join(report.models)}: loss {report.loss_initial:.3f} -> "
        f"{report.loss_final:.3f} ({1 - report.loss_final / report.loss_initial:.0%} less) with "
        f"{report.gradient_evaluations} gradients in {report.seconds:.1f} s on {report.device}, seed {report.seed}"
    )
    draw.text((gap, sheet.height - band), figures, fill="black", font=font)
    return sheet


def _fitting(
    text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    size = 15
    while font.getlength(text) > width and size > 8:
        size -= 1
        font = ImageFont.load_default(size)
    return font


def _photograph() -> Image.Image:
    import importlib.util

    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ImmunizeError("the demo's photograph is inside scikit-image; install immunize[worker,local]")
    with Image.open(Path(spec.origin).parent / "data" / PHOTOGRAPH) as picture:
        return picture.convert("RGB")


@contextmanager
def _service(data: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data", str(data)]
    environ = {name: value for name, value in os.environ.items() if name != f"{PREFIX}API_KEYS_FILE"}  # we have no key
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)  # noqa: S603
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # ends when the service listens, or when it dies
        if "listening on " not in line:
            raise ImmunizeError("the service did not start; what it said stands above")
        address = line.split("listening on ")[1].split()[0]
        _wait_until_ready(address)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _wait_until_ready(address: str) -> None:
    until = time.monotonic() + START_SECONDS
    with Client(address) as client:
        while not client.ready():
            if time.monotonic() > until:
                raise ImmunizeError(f"the service was not ready within {START_SECONDS:g} seconds")
            time.sleep(0.1)


def _reconstruct(out: Path) -> None:
    """What the model's decoder makes of both latents. The engine does that in processes of its own."""
    commands = [
        [
            sys.executable,
            "-m",
            "service.cli",
            "reconstruct",
            str(out / f"{name}.png"),
            "-o",
            str(out / f"{name}-reconstructed.png"),
        ]
        for name in ("original", "immunized")
    ]
    for command in commands:
        subprocess.run(command, check=True)  # noqa: S603


def _say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


def _tell(out: Path, job: Job) -> None:
    report = job.report
    assert report is not None
    print(
        f"\n{out}/contact-sheet.png shows it all; beside it original.png, mask.png, immunized.png,\n"
        f"difference.png (x{GAIN}), original-reconstructed.png, immunized-reconstructed.png and report.json.\n\n"
        f"  largest change   {report.linf_255}/255 (budget {report.epsilon:g}/255)\n"
        f"  PSNR, SSIM       {report.psnr_db} dB, {report.ssim}\n"
        f"  loss             {report.loss_initial:.4f} -> {report.loss_final:.4f}, measured on the delivered file\n"
        f"  gradients        {report.gradient_evaluations}, in {report.seconds} s on {report.device}"
    )
