"""A store of which tests damage copies."""

import asyncio
import shutil

import pytest
from tests.store.rotting import ROWS, checkpointed, filled, put


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store that was killed: most rows in its tables, some in the journal alone."""
    path = tmp_path_factory.mktemp("whole")

    async def make():
        engine = await filled(path / "store")
        await checkpointed(engine)
        for n in range(ROWS, ROWS + 30):
            await put(engine, n)
        shutil.copytree(path / "store", path / "killed")
        engine.close()

    asyncio.run(make())
    return path / "killed"
