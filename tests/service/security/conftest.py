from pathlib import Path

import pytest
from made_certificates import Issued, issue


@pytest.fixture(scope="module")
def authority() -> Issued:
    return issue("factory authority", authority=True)


@pytest.fixture
def ca(authority: Issued, tmp_path: Path) -> Path:
    """The authority's certificate in a file."""
    return authority.write(tmp_path)[0]
