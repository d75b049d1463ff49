"""For all tests: assertions of the shared tools show their values too."""

import pytest

pytest.register_assert_rewrite("tests.support")
