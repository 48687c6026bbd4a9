"""The official OpenAI client, creating and editing images."""

from __future__ import annotations

import io
from base64 import b64decode
from collections.abc import Iterator

import openai
import pytest
from PIL import Image

from kartina.models import png
from kartina.models.model import save
from tests import tiny
from tests.api.test_assets import mask, picture
from tests.engine import CARD, PROVENANCE
from tests.service import Service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    save(tiny.sampler("flow"), "flow", PROVENANCE, CARD, root=service.home / "models")
    key = service.client.post("/v1/keys", json={"name": "openai"}).json()["secret"]
    with openai.OpenAI(api_key=key, base_url=f"{service.url}/v1", max_retries=0) as made:
        yield made


def test_images_of_a_class(client: openai.OpenAI) -> None:
    found = client.images.generate(model="toy", prompt="dog", n=2, response_format="b64_json", quality="hd", user="me")
    assert found.data is not None and len(found.data) == 2
    for image in found.data:
        content = b64decode(image.b64_json or "")
        recipe = png.read_recipe(content)
        assert recipe is not None and recipe["label"] == "dog"
        assert image.revised_prompt == "dog"
        assert Image.open(io.BytesIO(content)).size == (8, 8)
    webp = client.images.generate(model="toy", prompt="кот", output_format="webp", size="auto")
    assert webp.data is not None and b64decode(webp.data[0].b64_json or "")[8:12] == b"WEBP"


def test_edits_of_an_image(client: openai.OpenAI) -> None:
    found = client.images.edit(model="flow", image=("a.png", picture()), prompt="a", n=2)
    assert found.data is not None and len(found.data) == 2
    recipe = png.read_recipe(b64decode(found.data[0].b64_json or ""))
    assert recipe is not None and recipe["task"] == "transform"
    part = client.images.edit(model="flow", image=picture(), mask=mask(), prompt="b")
    assert part.data is not None
    content = b64decode(part.data[0].b64_json or "")
    recipe = png.read_recipe(content)
    assert recipe is not None and recipe["task"] == "inpaint" and recipe["label"] == "b"
    # Black stays: the lower half is the given image's.
    made, given = (Image.open(io.BytesIO(x)).convert("L").crop((0, 8, 16, 16)) for x in (content, picture()))
    assert made.tobytes() == given.tobytes()


def test_what_else_clients_send(client: openai.OpenAI) -> None:
    """Left alone where it changes nothing, refused where the answer would be a lie."""
    found = client.images.generate(
        model="toy", prompt="dog", n=None, size="8x8", background="opaque", moderation="low", style="natural",
        output_compression=90, partial_images=0, safety_identifier="me", stream=False, extra_body={"seed": 7},
    )  # fmt: skip
    assert found.data is not None and found.size == "8x8" and found.output_format == "png"
    recipe = png.read_recipe(b64decode(found.data[0].b64_json or ""))
    assert recipe is not None and recipe["seed"] == 7
    found = client.images.generate(model="toy", prompt="dog", extra_body={"controls": {"steps": 3}})
    assert found.data is not None
    recipe = png.read_recipe(b64decode(found.data[0].b64_json or ""))
    assert recipe is not None and recipe["controls"]["steps"] == 3
    with pytest.raises(openai.UnprocessableEntityError, match="steps"):
        client.images.generate(model="toy", prompt="dog", extra_body={"controls": {"steps": -3}})
    listed = client.images.edit(
        model="flow", image=[picture()], prompt="a", input_fidelity="high", quality="high", user="me"
    )
    assert listed.data is not None and len(listed.data) == 1
    with pytest.raises(openai.UnprocessableEntityError, match="2 images; a model edits one at a time"):
        client.images.edit(model="flow", image=[picture(), picture(shade=3)], prompt="a")
    for wrong, says in (({"response_format": "url"}, "b64_json only: their URLs need your key"),
                        ({"stream": True}, "images come here when they are finished")):  # fmt: skip
        with pytest.raises(openai.UnprocessableEntityError, match=says):
            client.images.generate(model="toy", prompt="dog", **wrong)
        with pytest.raises(openai.UnprocessableEntityError, match=says):
            client.images.edit(model="flow", image=picture(), prompt="a", **wrong)
    with pytest.raises(openai.UnprocessableEntityError, match="output_format"):
        client.images.generate(model="toy", prompt="dog", output_format="jpeg")


def test_errors_are_the_clients_own(client: openai.OpenAI, service: Service) -> None:
    with pytest.raises(openai.NotFoundError, match="no class called 'cow'"):
        client.images.generate(model="toy", prompt="cow")
    with pytest.raises(openai.NotFoundError, match="no model called"):
        client.images.generate(model="dall-e-3", prompt="dog")
    with pytest.raises(openai.UnprocessableEntityError, match="makes images of 8x8"):
        client.images.generate(model="toy", prompt="dog", size="1024x1024")
    with pytest.raises(openai.NotFoundError, match="toy@1, which can generate; expected one that can inpaint"):
        client.images.edit(model="toy", image=picture(), mask=mask(), prompt="dog")
    with pytest.raises(openai.UnprocessableEntityError, match="makes images of"):
        client.images.edit(model="flow", image=picture(), prompt="a", size="1024x1024")
    with pytest.raises(openai.NotFoundError, match="no class called"):
        client.images.edit(model="flow", image=picture(), prompt="make it red")
    with pytest.raises(openai.NotFoundError, match="no class called '²'"):
        client.images.generate(model="toy", prompt="²")
    with pytest.raises(openai.UnprocessableEntityError, match="an SVG"):
        client.images.edit(model="flow", image=b"<svg/>", prompt="a")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(api_key="sk-x", base_url=f"{service.url}/v1", max_retries=0).images.generate(
            model="toy", prompt="dog"
        )
