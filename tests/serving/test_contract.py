"""The OpenAPI document says what the server does: a thousand requests made from it find no difference."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from matryoshka2d.serving.app import State, build_app
from matryoshka2d.serving.catalog import Catalog
from matryoshka2d.serving.options import ServeOptions

pytestmark = pytest.mark.filterwarnings("ignore")
