"""A proxy that answers 200 in Azure's place: something to try again, not the end of the process."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from aiohttp import web
from foreign_azure import foreign_azure

from gpu_provisioner.cloud.azure import connect
from gpu_provisioner.cloud.failure import CloudError, FailureClass
from gpu_provisioner.settings import AzureSettings


def between(folder: Path, body: str, content_type: str) -> AbstractAsyncContextManager[AzureSettings]:
    """A proxy that answers everything alike."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type=content_type)

    return foreign_azure(folder, answer)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<html>Please log in</html>", "text/html"),
        ("<html>Please log in</html>", "application/json"),
        ("", "application/json"),
        ("[1]", "application/json"),
    ],
)
async def test_an_answer_that_is_not_azures_is_tried_again(tmp_path: Path, body: str, content_type: str) -> None:
    async with between(tmp_path, body, content_type) as settings, connect(settings) as cloud:
        with pytest.raises(CloudError, match="tried again") as raised:
            await cloud.list()
        assert raised.value.failure.failure is FailureClass.SERVER
        assert not raised.value.failure.permanent


async def test_a_pool_that_something_else_than_azure_shows_is_asked_for_again(tmp_path: Path) -> None:
    async with between(tmp_path, "<html>Please log in</html>", "text/html") as settings, connect(settings) as cloud:
        with pytest.raises(CloudError, match="a proxy in between") as raised:
            await cloud.get("p")
        assert raised.value.failure.failure is FailureClass.SERVER
