"""What is watched, out of the settings: deployments, their breakers, probes of upstreams."""

from collections.abc import Mapping

from llmrouter.config.schema import Health as HealthTable
from llmrouter.config.schema import Settings
from llmrouter.config.schema import Upstream as UpstreamTable
from llmrouter.daemon import build, routing
from llmrouter.daemon.health import Plan
from llmrouter.daemon.prober import ProbeTerms


def plan(settings: Settings) -> Plan:
    """What the verdict on a node is about: every model and every upstream."""
    models = {
        name: tuple(
            dict.fromkeys(
                routing.deployment_name(table.upstream, table.model, name)
                for table in model.deployments
            )
        )
        for name, model in settings.models.items()
    }
    return Plan(models, tuple(settings.upstreams))


def probes(
    settings: Settings, secrets: Mapping[str, str], demo_path: str | None
) -> list[ProbeTerms]:
    """How the upstreams are probed that have `health`."""
    return [
        _probe(name, table, table.health, secrets.get(name), demo_path)
        for name, table in settings.upstreams.items()
        if table.health is not None and table.dialect in build.DIALECTS
    ]


def _probe(
    name: str, table: UpstreamTable, health: HealthTable, secret: str | None, demo_path: str | None
) -> ProbeTerms:
    origin = build.origin(table.url, demo_path)
    credential = () if secret is None else build.dialect(table.dialect).credential_headers(secret)
    lines = [b"host: %b\r\n" % origin.host_header, *(b"%b: %b\r\n" % each for each in credential)]
    return ProbeTerms(
        upstream=name,
        origin=origin,
        path=health.path.encode(),
        headers=b"".join(lines),
        every_s=health.every,
        timeout_s=health.timeout,
        failures=health.failures,
    )
