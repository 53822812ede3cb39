"""POST /immunize: what is taken, and what is refused with which status."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.contracts.queue import JobQueue, connect
from service.contracts.settings import Settings
from tests.helpers import encoded, png
from tests.service.contracts.examples import header

Open = Callable[..., TestClient]


def stored(settings: Settings) -> list[str]:
    root = Path(settings.store_url.removeprefix("file://"))
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def refused(answer: Any, status: int, field: str | None = None) -> str:
    """That the answer is a problem document with that status; its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) - {"errors"} == {"type", "title", "status", "detail"}
    assert body["type"].startswith("urn:immunize:")
    assert body["status"] == status
    assert "Traceback" not in body["detail"]
    assert "/tmp" not in body["detail"]  # noqa: S108
    if field is None:
        assert "errors" not in body
    else:
        assert [error["field"] for error in body["errors"]] == [field]
        assert body["errors"][0]["detail"] == body["detail"]
    return str(body["detail"])


def test_a_picture_is_taken(gateway: TestClient, settings: Settings, image: bytes) -> None:
    answer = gateway.post("/immunize", files={"image": ("photo.png", image)})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"] == f"/jobs/{job['id']}"
    assert job["links"] == {
        "self": f"/jobs/{job['id']}",
        "image": f"/jobs/{job['id']}/image",
        "cancel": f"/jobs/{job['id']}/cancel",
    }
    told = ("status", "priority", "method", "queue_position", "attempts", "metadata")
    assert {name: job[name] for name in told} == {
        "status": "queued",
        "priority": "interactive",
        "method": "encoder",
        "queue_position": 0,
        "attempts": 0,
        "metadata": {},
    }
    assert job["models"] == ["reference-autoencoder"]
    assert {job[name] for name in ("started_at", "ended_at", "error", "result", "report", "progress")} == {None}
    home = f"jobs/public/{job['id']}"
    assert stored(settings) == [f"{home}/image", f"{home}/job.json", f"pending/public/{job['id']}"]
    assert gateway.get(answer.headers["location"]).json() == job


def test_everything_that_can_be_asked_for(gateway: TestClient, settings: Settings, image: bytes) -> None:
    mask = Image.new("L", (96, 80))
    mask.paste(255, (20, 20, 60, 60))
    answer = gateway.post(
        "/immunize",
        files={"image": ("a", image), "mask": ("b", png(mask)), "target_image": ("c", png(Image.new("RGB", (5, 5))))},
        data={
            "method": "encoder",
            "models": "tiny",
            "preset": "paper",
            "norm": "l2",
            "epsilon": "500",
            "steps": "3",
            "seed": "7",
            "target": "image",
            "format": "webp",
            "exif": "keep",
            "data_mining": "reserved",
            "sign": "false",
            "sizes": "64, 32w,original,64",
            "metadata": '{"album": 7, "tags": ["a", "ü"]}',
        },
    )
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["models"], job["metadata"]) == (["tiny"], {"album": 7, "tags": ["a", "ü"]})
    home = f"jobs/public/{job['id']}"
    assert stored(settings)[:4] == [f"{home}/{name}" for name in ("image", "job.json", "mask", "target")]
    record = json.loads((Path(settings.store_url.removeprefix("file://")) / home / "job.json").read_text())
    assert record["plan"] == {
        "method": "encoder",
        "models": ["tiny"],
        "preset": "paper",
        "norm": "l2",
        "epsilon": 500,
        "steps": 3,
        "seed": 7,
        "target": "image",
        "format": "webp",
        "quality": None,
        "exif": "keep",
        "data_mining": "reserved",
        "sign": False,
        "sizes": ["64", "32w", "original"],
        "prompts": [],
        "denoising_steps": None,
        "gradient_steps": None,
        "repeats": None,
        "masks": None,
        "losses": [],
        "order": None,
    }


def test_an_attack_on_edits_and_all_that_is_its_own(gateway: TestClient, settings: Settings, image: bytes) -> None:
    asked = {"method": "diffusion", "models": "painter,tiny", "prompt": "a cat\na dog", "denoising_steps": "6"}
    asked |= {"gradient_steps": "2", "repeats": "3", "masks": "random"}
    answer = gateway.post("/immunize", files={"image": ("a", image)}, data=asked)
    assert answer.status_code == 202, answer.text
    home = Path(settings.store_url.removeprefix("file://")) / f"jobs/public/{answer.json()['id']}"
    plan = json.loads((home / "job.json").read_text())["plan"]
    assert (plan["models"], plan["prompts"]) == (["painter", "tiny"], ["a cat", "a dog"])
    assert (plan["denoising_steps"], plan["gradient_steps"], plan["repeats"], plan["masks"]) == (6, 2, 3, "random")


def region(*box: int) -> bytes:
    mask = Image.new("L", (96, 80))
    if box:
        mask.paste(255, box)
    return png(mask)


@pytest.mark.parametrize("models", ["painter", "tiny", "tiny,painter"])  # an encoder is enough
def test_a_backdoor_and_all_that_is_its_own(models: str, gateway: TestClient, settings: Settings, image: bytes) -> None:
    asked = {"method": "backdoor", "models": models, "losses": "hide, implant", "order": "sequential"}
    asked |= {"prompt": "a cat", "denoising_steps": "6", "gradient_steps": "2"}
    files = {"image": ("a", image), "mask": ("b", region(20, 20, 60, 60))}
    answer = gateway.post("/immunize", files=files, data=asked)
    assert answer.status_code == 202, answer.text
    home = Path(settings.store_url.removeprefix("file://")) / f"jobs/public/{answer.json()['id']}"
    plan = json.loads((home / "job.json").read_text())["plan"]
    assert (plan["method"], plan["models"], plan["target"]) == ("backdoor", models.split(","), "farthest")
    assert (plan["losses"], plan["order"]) == (["implant", "hide"], "sequential")
    assert (plan["prompts"], plan["denoising_steps"], plan["gradient_steps"]) == (["a cat"], 6, 2)
    assert (home / "mask").is_file()


MASKS = {
    "none": (None, "this method protects one region and needs it; send a mask"),
    "black": (region(), "it is black everywhere"),
    "white": (region(0, 0, 96, 80), "it covers the whole picture"),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_backdoor_without_a_region(case: str, gateway: TestClient, settings: Settings, image: bytes) -> None:
    mask, said = MASKS[case]
    files = {"image": ("a", image)} | ({} if mask is None else {"mask": ("b", mask)})
    detail = refused(gateway.post("/immunize", files=files, data={"method": "backdoor"}), 422, "mask")
    assert said in detail
    assert stored(settings) == []


@pytest.mark.parametrize("mask", [None, region()], ids=["none", "black"])
@pytest.mark.parametrize("method", ["encoder", "noise"])
def test_other_methods_go_without_a_region(method: str, mask: bytes | None, gateway: TestClient, image: bytes) -> None:
    files = {"image": ("a", image)} | ({} if mask is None else {"mask": ("b", mask)})
    assert gateway.post("/immunize", files=files, data={"method": method}).status_code == 202


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("losses", "explode"),
        ("losses", ""),
        ("order", "both"),
        ("repeats", "2"),
        ("masks", "random"),
        ("target", "zero"),
        ("preset", "robust"),
        ("models", "nobody"),
    ],
)
def test_a_wrong_field_of_a_backdoor(
    field: str, value: str, gateway: TestClient, settings: Settings, image: bytes
) -> None:
    files = {"image": ("a", image), "mask": ("b", region(20, 20, 60, 60))}
    answer = gateway.post("/immunize", files=files, data={"method": "backdoor"} | {field: value})
    assert refused(answer, 422, field).startswith(f"{field}: ")
    assert stored(settings) == []


@pytest.mark.parametrize(("field", "value"), [("losses", "hide"), ("order", "parallel")])
@pytest.mark.parametrize("method", ["encoder", "diffusion", "noise"])
def test_what_is_the_backdoors_own(method: str, field: str, value: str, gateway: TestClient, image: bytes) -> None:
    answer = gateway.post("/immunize", files={"image": ("a", image)}, data={"method": method, field: value})
    assert refused(answer, 422, field) == f"{field}: {method} takes none; leave the field out"


def test_a_wrong_priority_says_which_there_are(gateway: TestClient, image: bytes) -> None:
    answer = gateway.post("/immunize", files={"image": ("a", image)}, data={"priority": "urgent"})
    assert refused(answer, 422, "priority") == "priority: 'urgent' is not one of interactive, bulk"


def test_a_priority_is_a_queue_of_its_own(gateway: TestClient, settings: Settings, image: bytes) -> None:
    asked = ("bulk", "interactive", "bulk", None)
    jobs = [
        gateway.post("/immunize", files={"image": ("a", image)}, data={"priority": each} if each else {}).json()
        for each in asked
    ]
    assert [job["priority"] for job in jobs] == ["bulk", "interactive", "bulk", "interactive"]
    assert [job["queue_position"] for job in jobs] == [0, 0, 1, 1]
    with connect(settings) as connection:
        queue = JobQueue(connection, settings)
        assert (queue.depth("interactive"), queue.depth("bulk")) == (2, 2)


def test_jobs_that_may_be_optimised_together_have_one_key(
    gateway: TestClient, settings: Settings, image: bytes
) -> None:
    together: list[dict[str, str]] = [{"seed": "1"}, {"seed": "2", "epsilon": "3", "format": "webp"}]
    apart: list[dict[str, str]] = [{"steps": "7"}, {"preset": "paper"}]
    keys = []
    for fields in together + apart:
        job = gateway.post("/immunize", files={"image": ("a", image)}, data=fields).json()
        record = Path(settings.store_url.removeprefix("file://")) / f"jobs/public/{job['id']}/job.json"
        keys.append(json.loads(record.read_text())["key"])
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_the_queue_position_counts(gateway: TestClient, image: bytes) -> None:
    jobs = [gateway.post("/immunize", files={"image": ("a", image)}).json() for _ in range(3)]
    assert [job["queue_position"] for job in jobs] == [0, 1, 2]


FIELDS = [
    ("method", "magic"),
    ("models", "nobody"),
    ("preset", "slow"),
    ("norm", "l1"),
    ("epsilon", "0"),
    ("epsilon", "nan"),
    ("epsilon", "abc"),
    ("epsilon", "300"),
    ("steps", "0"),
    ("steps", "1.5"),
    ("steps", "9" * 40),
    ("seed", "-1"),
    ("target", "pink"),
    ("target", "image"),
    ("format", "gif"),
    ("quality", "90"),  # of a png
    ("exif", "all"),
    ("data_mining", "yes"),
    ("sign", "yes"),
    ("sign", "true"),  # without a certificate
    ("sizes", ""),
    ("sizes", "large"),
    ("metadata", "{"),
    ("metadata", "[1]"),
    ("metadata", "null"),
    ("metadata", ""),
    ("metadata", "[" * 50_000),
    ("priority", "urgent"),
    ("priority", "Bulk"),
    ("priority", ""),
    ("colour", "red"),
    ("webhook", "http://127.0.0.1"),
    ("image", "not a file"),
    ("mask", "not a file"),
]


@pytest.mark.parametrize(("field", "value"), FIELDS, ids=lambda text: repr(text[:12]))
def test_a_wrong_field(field: str, value: str, gateway: TestClient, settings: Settings, image: bytes) -> None:
    files = {"image": ("a", image)} if field != "image" else {"mask": ("a", image)}
    detail = refused(gateway.post("/immunize", files=files, data={field: value}), 422, field)
    assert detail.startswith(f"{field}: ")
    assert stored(settings) == []


PICTURES: dict[str, tuple[dict[str, bytes], int, str]] = {
    "no image": ({"mask": png(Image.new("L", (96, 80)))}, 422, "image"),
    "another file": ({"picture": b"x"}, 422, "picture"),
    "empty": ({"image": b""}, 415, "image"),
    "text": ({"image": b"just text"}, 415, "image"),
    "damaged": ({"image": png(Image.effect_noise((64, 64), 50))[:1000]}, 422, "image"),
    "bomb": ({"image": header(60_000, 60_000)}, 413, "image"),
    "too many pixels": ({"image": png(Image.new("L", (1001, 1000)))}, 413, "image"),
    "mask of text": ({"mask": b"just text"}, 415, "mask"),
    "mask of another size": ({"mask": png(Image.new("L", (80, 96)))}, 422, "mask"),
    "mask over all": ({"mask": png(Image.new("L", (96, 80), 255))}, 422, "mask"),
    "target of text": ({"target_image": b"just text"}, 415, "target_image"),
    "target bomb": ({"target_image": header(60_000, 60_000)}, 413, "target_image"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_a_wrong_picture(case: str, open_gateway: Open, settings: Settings, image: bytes) -> None:
    parts, status, field = PICTURES[case]
    files = {name: (name, data) for name, data in parts.items()}
    if case not in {"no image", "another file"}:
        files.setdefault("image", ("image", image))
    gateway = open_gateway(max_pixels=1_000_000)
    detail = refused(gateway.post("/immunize", files=files), status, field)
    assert detail.startswith(f"{field}: ")
    assert stored(settings) == []


@pytest.mark.parametrize(
    ("picture", "format"),
    [(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "jpeg"), (Image.new("RGB", (16384, 1)), "webp")],
    ids=["alpha in jpeg", "too wide for webp"],
)
def test_a_format_that_cannot_hold_it(picture: Image.Image, format: str, gateway: TestClient) -> None:
    refused(gateway.post("/immunize", files={"image": ("a", png(picture))}, data={"format": format}), 422, "format")


def test_a_part_that_comes_twice(gateway: TestClient, image: bytes) -> None:
    answer = gateway.post("/immunize", files=[("image", ("a", image)), ("image", ("b", image))])
    assert "send it once" in refused(answer, 422, "image")
    answer = gateway.post("/immunize", files={"image": ("a", image)}, data={"seed": ["1", "2"]})
    assert "send it once" in refused(answer, 422, "seed")


def test_a_name_of_any_length_is_not_sent_back_whole(gateway: TestClient, image: bytes) -> None:
    for answer in (
        gateway.post("/immunize", files={"image": ("a", image)}, data={"x" * 3000: "1"}),
        gateway.post("/immunize", files={"image": ("a", image), "x" * 3000: ("b", b"")}),
    ):
        assert answer.status_code == 422
        assert len(answer.content) < 1500


BODIES: dict[str, tuple[bytes, str, int]] = {
    "json": (b"{}", "application/json", 422),
    "form": (b"method=encoder", "application/x-www-form-urlencoded", 422),
    "nothing": (b"", "", 422),
    "no boundary": (b"--x\r\n", "multipart/form-data", 422),
    "not what it says": (b"hello", "multipart/form-data; boundary=x", 422),
    "cut off": (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc',
        "multipart/form-data; boundary=x",
        422,
    ),
    "no name": (
        b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nabc\r\n--x--',
        "multipart/form-data; boundary=x",
        422,
    ),
    "no disposition": (b"--x\r\n\r\nabc\r\n--x--", "multipart/form-data; boundary=x", 422),
    "field of 1 MB": (
        b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n' + b"1" * 2**20 + b"\r\n--x--",
        "multipart/form-data; boundary=x",
        422,
    ),
    "unknown charset": (
        b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n\xff\xfe\r\n--x--',
        "multipart/form-data; boundary=x; charset=klingon",
        422,
    ),
    "not UTF-8": (
        b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n\xff\xfe\r\n--x--',
        "multipart/form-data; boundary=x",
        422,
    ),
    "many parts": (
        b"".join(b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n1\r\n' % n for n in range(100)) + b"--x--",
        "multipart/form-data; boundary=x",
        422,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_is_no_form_of_ours(case: str, gateway: TestClient) -> None:
    content, kind, status = BODIES[case]
    answer = gateway.post("/immunize", content=content, headers={"content-type": kind} if kind else {})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 1000


def test_a_body_that_declares_too_much(open_gateway: Open, settings: Settings, photograph: Image.Image) -> None:
    gateway = open_gateway(max_upload_bytes=4096)
    answer = gateway.post("/immunize", files={"image": ("a", encoded(photograph, "BMP"))})
    assert "limit of 4096 bytes" in refused(answer, 413)


def test_a_body_that_turns_out_too_much(open_gateway: Open, settings: Settings) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        while taken < 2**20:
            taken += 1024
            yield b"0" * 1024

    gateway = open_gateway(max_upload_bytes=4096)
    answer = gateway.post("/immunize", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert "limit of 4096 bytes" in refused(answer, 413)
    assert stored(settings) == []


def test_a_full_queue(open_gateway: Open, settings: Settings, image: bytes) -> None:
    gateway = open_gateway(max_queue_depth=2)
    answers = [gateway.post("/immunize", files={"image": ("a", image)}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    refused(answers[2], 429)
    assert int(answers[2].headers["retry-after"]) > 0
    assert len([name for name in stored(settings) if name.startswith("pending/")]) == 2


def test_without_redis_nothing_is_kept(open_gateway: Open, settings: Settings, image: bytes) -> None:
    answer = open_gateway(redis_url="unix:///nowhere/redis.sock").post("/immunize", files={"image": ("a", image)})
    refused(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert stored(settings) == []


def test_redis_that_goes_away_at_the_last_moment(
    gateway: TestClient, settings: Settings, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    def gone(*_: object, **__: object) -> None:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr("rq.Queue.enqueue_call", gone)
    answer = gateway.post("/immunize", files={"image": ("a", image)})
    refused(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert stored(settings) == []


def test_a_store_that_fails_keeps_nothing_and_queues_nothing(
    gateway: TestClient, settings: Settings, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    answer = gateway.post("/immunize", files={"image": ("a", image)})
    refused(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert stored(settings) == []
    with connect(settings) as connection:
        assert JobQueue(connection, settings).depth() == 0


def test_a_model_without_weights_says_how_to_get_it(gateway: TestClient, settings: Settings, image: bytes) -> None:
    with connect(settings) as connection:
        JobQueue(connection, settings).announce("one", {"absent": "fetch it with `get absent`"})
    answer = gateway.post("/immunize", files={"image": ("a", image)}, data={"models": "tiny,absent"})
    assert "fetch it with `get absent`" in refused(answer, 422, "models")
    assert answer.json()["type"] == "urn:immunize:model-missing"
    assert stored(settings) == []


def test_an_error_of_our_own_tells_no_secrets(
    gateway: TestClient, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr("service.routes.immunize.read_picture", bug)
    answer = gateway.post("/immunize", files={"image": ("a", image)})
    assert "swordfish" not in answer.text
    refused(answer, 500)
