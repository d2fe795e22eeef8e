"""`PostgresFlowPersistence` keeps every promise that a backend can make."""

import pytest

from asyncflow import FlowPersistence
from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.testing.conformance import PersistenceConformance


@pytest.mark.clauses("V1", "D4", "E2", "C2", "C3", "L1", "L4")
class TestPostgres(PersistenceConformance):
    @pytest.fixture
    def persistence(self, persistence: PostgresFlowPersistence) -> FlowPersistence:
        return persistence

    def another(self, persistence: FlowPersistence) -> FlowPersistence:
        assert isinstance(persistence, PostgresFlowPersistence)
        target = persistence._target
        return PostgresFlowPersistence(target.conninfo, schema=target.schema)
