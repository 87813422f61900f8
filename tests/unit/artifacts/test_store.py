"""The contract of the store, on a folder, in memory and on a real S3 server."""

import asyncio
import hashlib
import signal
from pathlib import Path

import pytest

from corral.artifacts.errors import ArtifactMissingError, ArtifactStoreError
from corral.artifacts.store import ArtifactStore
from tests.unit.artifacts.conftest import Place
from tests.unit.artifacts.s3 import BUCKET, ENVIRONMENT, S3

TEXT = '"größer"'.encode() * 300
RUN, OTHER = "3f0c3c1e-6c4f-4f2e-9a53-0d2a6f1f8d10", "8d1f6a2d-53b8-4e21-9f0e-2b6c9a7e4c11"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_what_was_put_can_be_got_and_put_again(store: ArtifactStore) -> None:
    for _ in range(2):
        await store.put("team", RUN, sha(TEXT), TEXT)
        assert await store.get("team", RUN, sha(TEXT)) == TEXT
    await store.put("team", RUN, sha(b'""'), b'""')
    assert await store.runs() == [("team", RUN)]


async def test_large_values_are_kept_whole(store: ArtifactStore) -> None:
    content = bytes(range(256)) * 4096 * 8
    await store.put("team", RUN, sha(content), content)
    assert await store.get("team", RUN, sha(content)) == content


async def test_a_content_of_another_hash_is_not_stored(store: ArtifactStore) -> None:
    with pytest.raises(ValueError, match="does not have the SHA-256"):
        await store.put("team", RUN, sha(b"other"), TEXT)
    assert await store.runs() == []


@pytest.mark.parametrize("tampered", [TEXT + b" ", TEXT[:-1], b""])
async def test_what_was_tampered_with_is_noticed_and_healed_by_another_put(
    store: ArtifactStore, place: Place, tampered: bytes
) -> None:
    await store.put("team", RUN, sha(TEXT), TEXT)
    place.overwrite(f"team/{RUN}/{sha(TEXT)}", tampered)
    with pytest.raises(ArtifactMissingError, match="damaged"):
        await store.get("team", RUN, sha(TEXT))
    await store.put("team", RUN, sha(TEXT), TEXT)
    assert await store.get("team", RUN, sha(TEXT)) == TEXT


async def test_what_is_missing_is_told_from_a_store_that_is_another(
    store: ArtifactStore, place: Place
) -> None:
    if not place.url.startswith("memory"):
        with pytest.raises(ArtifactStoreError, match="another store than before") as caught:
            await store.get("team", RUN, sha(TEXT))
        assert not isinstance(caught.value, ArtifactMissingError)
    await store.check()
    for missing in (store.get("team", RUN, sha(TEXT)), store.copy("team", RUN, OTHER, sha(TEXT))):
        with pytest.raises(ArtifactMissingError, match=f"team/{RUN}/{sha(TEXT)} is not in"):
            await missing


async def test_a_deleted_run_is_gone_and_the_others_are_there(store: ArtifactStore) -> None:
    for run in (RUN, OTHER):
        for content in (TEXT, b"1", b"2"):
            await store.put("team", run, sha(content), content)
    for _ in range(2):
        await store.delete_run("team", RUN)
    with pytest.raises(ArtifactMissingError):
        await store.get("team", RUN, sha(TEXT))
    assert await store.get("team", OTHER, sha(TEXT)) == TEXT
    assert await store.runs() == [("team", OTHER)]


async def test_a_copy_outlives_the_run_that_it_was_made_of(store: ArtifactStore) -> None:
    await store.put("team", RUN, sha(TEXT), TEXT)
    await store.copy("team", RUN, OTHER, sha(TEXT))
    await store.copy("team", OTHER, OTHER, sha(TEXT))
    await store.delete_run("team", RUN)
    assert await store.get("team", OTHER, sha(TEXT)) == TEXT


async def test_a_memo_is_replaced_and_belongs_to_its_namespace(
    store: ArtifactStore, place: Place
) -> None:
    assert await store.get_memo("team", "k.1") is None
    for content in (b"one", b"\ntwo\n"):
        await store.put_memo("team", "k.1", content)
        assert await store.get_memo("team", "k.1") == content
    assert await store.get_memo("other", "k.1") is None
    assert await store.runs() == [], "a memo is no run"
    place.overwrite("team/memo/k.1", b"cut off")
    assert await store.get_memo("team", "k.1") is None


async def test_old_memos_are_deleted(store: ArtifactStore) -> None:
    await store.put("team", RUN, sha(TEXT), TEXT)
    await store.put_memo("team", "k", b"v")
    assert await store.delete_old_memos(3600) == 0
    assert await store.get_memo("team", "k") == b"v"
    assert await store.delete_old_memos(-3600) == 1
    assert await store.get_memo("team", "k") is None
    assert await store.get("team", RUN, sha(TEXT)) == TEXT


async def test_a_hundred_puts_at_once(store: ArtifactStore) -> None:
    contents = [b"%d" % (n // 2) * 1000 for n in range(100)]
    await asyncio.gather(*(store.put("team", RUN, sha(c), c) for c in contents))
    got = await asyncio.gather(*(store.get("team", RUN, sha(c)) for c in contents))
    assert got == contents


@pytest.mark.parametrize(
    ("namespace", "run_id", "sha256", "named"),
    [
        ("..", RUN, sha(TEXT), "namespace"),
        ("a/b", RUN, sha(TEXT), "namespace"),
        ("team", "../other", sha(TEXT), "run_id"),
        ("team", "", sha(TEXT), "run_id"),
        ("team", "memo", sha(TEXT), "run_id"),
        ("team", RUN, "../x", "sha256"),
        ("team", RUN, sha(TEXT).upper(), "sha256"),
        ("team", RUN, sha(TEXT) + "\n", "sha256"),
    ],
)
async def test_names_are_no_paths(namespace: str, run_id: str, sha256: str, named: str) -> None:
    store = ArtifactStore("memory://names")
    for call in (store.put(namespace, run_id, sha256, TEXT), store.get(namespace, run_id, sha256)):
        with pytest.raises(ValueError, match=f"^{named}: "):
            await call
    for key in ("../x", "", ".hidden", "a/b", "x" * 129):
        with pytest.raises(ValueError, match=r"^key: "):
            await store.put_memo("team", key, b"")
    await store.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("/var/lib/corral", "no scheme"),
        ("file://", "names no folder"),
        ("file://var/lib", "must be absolute"),
        ("s3://", "names no folder"),
        ("nosuch://x", "nosuch"),
        ("gs://bucket", "gcsfs"),
    ],
)
def test_a_url_of_which_nothing_can_be_made_is_refused(url: str, why: str) -> None:
    with pytest.raises(ArtifactStoreError, match=why):
        ArtifactStore(url)


async def test_a_folder_that_can_not_be_written_is_an_error_with_its_name(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.mktemp("f") / "file"
    file.touch()
    store = ArtifactStore(f"file://{file}/root")
    with pytest.raises(ArtifactStoreError, match=f"{file}.*Not a directory"):
        await store.check()
    await store.close()


async def test_a_folder_holds_no_drafts(place: Place, store: ArtifactStore) -> None:
    if not place.url.startswith("file"):
        return
    await store.put("team", RUN, sha(TEXT), TEXT)
    folder = Path(place.url.removeprefix("file://")) / "team" / RUN
    assert [path.name for path in folder.iterdir()] == [sha(TEXT)], "a draft was left"


async def test_a_bucket_that_is_not_there_is_said(aws: S3) -> None:
    store = ArtifactStore("s3://no-such-bucket/x")
    with pytest.raises(ArtifactStoreError, match=r"is not there: .*bucket"):
        await store.check()
    with pytest.raises(ArtifactStoreError) as caught:
        await store.get("team", RUN, sha(TEXT))
    assert not isinstance(caught.value, ArtifactMissingError)
    await store.close()


async def test_refused_credentials_are_said_at_once_and_not_shown(
    aws: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, f"wrong-{name}")
    store = ArtifactStore(f"s3://{BUCKET}/x")
    with pytest.raises(ArtifactStoreError) as caught:
        async with asyncio.timeout(30):
            await store.check()
    assert str(caught.value).startswith(f"the artifact store s3://{BUCKET}/x: ")
    for text in ("wrong-", ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]):
        assert text not in str(caught.value)
    await store.close()


async def test_a_server_that_is_gone_is_an_error_and_its_return_is_noticed(aws: S3) -> None:
    store = ArtifactStore(f"s3://{BUCKET}/gone", timeout=5, rest=0.5)
    await store.put("team", RUN, sha(TEXT), TEXT)
    aws.stop()
    try:
        with pytest.raises(ArtifactStoreError, match=f"s3://{BUCKET}/gone"):
            async with asyncio.timeout(60):
                await store.get("team", RUN, sha(TEXT))
    finally:
        aws.start()
    assert await back(store) == TEXT
    await store.close()


async def back(store: ArtifactStore) -> bytes:
    """What is stored, once the server answers again and the store asks it."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await store.get("team", RUN, sha(TEXT))
            except ArtifactStoreError:
                await asyncio.sleep(0.2)


async def test_a_server_that_hangs_holds_up_nobody_for_long(aws: S3) -> None:
    store = ArtifactStore(f"s3://{BUCKET}/hung", timeout=1.5, rest=2)
    await store.put("team", RUN, sha(TEXT), TEXT)
    aws.send(signal.SIGSTOP)
    try:
        calls = [store.get("team", RUN, sha(TEXT)) for _ in range(100)]
        async with asyncio.timeout(60):
            done = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, ArtifactStoreError) for error in done)
        with pytest.raises(ArtifactStoreError, match=r"asked again .*: no answer within 1.5 s"):
            await store.get("team", RUN, sha(TEXT))
    finally:
        aws.send(signal.SIGCONT)
    assert await back(store) == TEXT
    await store.close()
