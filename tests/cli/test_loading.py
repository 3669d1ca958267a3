from app.cli.loading import label_of
from app.models.schemas import LoadProgress


def test_progress_is_told_as_far_as_it_was_measured() -> None:
    loading = LoadProgress(model_name="gpt2", stage="load", fraction=0.5)
    assert label_of(loading) == "gpt2: load"
    assert label_of(loading.model_copy(update={"note": "a is unloaded"})) == "gpt2: load (a is unloaded)"
    download = LoadProgress(
        model_name="gpt2",
        stage="download",
        fraction=0.5,
        done_bytes=274_000_000,
        total_bytes=548_000_000,
        bytes_per_s=2.5e6,
        seconds_left=110,
    )
    assert label_of(download) == "gpt2: download 274 MB of 548 MB at 2 MB/s (1 min 50 s left)"
