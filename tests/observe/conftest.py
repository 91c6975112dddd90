"""What the tests of observe share."""

import pytest

from holdfast import policy


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Policies that other tests keep alive, and pools of workers of other runs on this machine, are not looked at."""
    folder = tmp_path / "pools"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("HOLDFAST_RUN_DIR", str(folder))
    monkeypatch.setattr(policy, "_plans", {})
