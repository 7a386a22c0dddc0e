"""The Dockerfile and compose.yaml name only what exists, and are clean under their own checkers."""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.server import Server
from vantage.config import FIELDS, PREFIX
from vantage.roles import ROLES

ROOT = Path(__file__).resolve().parents[2]
# Installed beside the Python that runs the tests (requirements/dev.txt).
BIN = Path(sys.executable).parent


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(COPY, arguments) and so on, continuation lines joined, comments left out."""
    joined = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0].upper(), line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def copy_complaints(dockerfile: str, dockerignore: str, root: Path) -> list[str]:
    """Sources that are not in the checkout, not in the build context, or in a stage that does not exist."""
    stages: set[str] = set()
    complaints = []
    for name, rest in instructions(dockerfile):
        if name == "FROM" and (stage := re.search(r"\bAS (\S+)", rest, re.IGNORECASE)):
            stages.add(stage[1])
        if name not in {"COPY", "ADD"}:
            continue
        words = rest.split()
        origin = next((word.partition("=")[2] for word in words if word.startswith("--from=")), None)
        if origin is not None:
            complaints += [] if origin in stages else [f"no stage is called {origin}"]
            continue
        for source in [word for word in words if not word.startswith("--")][:-1]:
            if not list(root.glob(source)):
                complaints.append(f"{source} does not exist")
            elif not in_context(source, dockerignore):
                complaints.append(f"{source} is kept out by .dockerignore")
    return complaints


def in_context(source: str, dockerignore: str) -> bool:
    """For an ignore file that begins with `*` and lets paths in by `!name`."""
    rules = [line.strip() for line in dockerignore.splitlines() if line.strip() and not line.startswith("#")]
    assert rules[0] == "*", ".dockerignore lets in what it names, so that no secret slips into an image"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    return any(source == item or source.startswith(f"{item}/") for item in allowed)


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_path_the_dockerfile_copies_exists() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert any(name == "COPY" for name, _ in instructions(dockerfile))
    assert not copy_complaints(dockerfile, (ROOT / ".dockerignore").read_text(), ROOT)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("COPY gone.txt ./", "gone.txt does not exist"),
        ("COPY secret.txt ./", "secret.txt is kept out by .dockerignore"),
        ("COPY --from=nowhere /a /b", "no stage is called nowhere"),
    ],
)
def test_a_wrong_copy_is_noticed(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "secret.txt").touch()
    assert copy_complaints(f"FROM scratch AS base\n{line}\n", "*\n!src\n", tmp_path) == [complaint]


def test_the_requirement_files_the_image_installs_are_hash_checked() -> None:
    installs = [rest for name, rest in instructions((ROOT / "Dockerfile").read_text()) if name == "RUN"]
    commands = [item for rest in installs for item in rest.split("&&") if re.search(r"/pip\b.* install ", item)]
    assert len(commands) == 3
    for command in commands:
        assert "--require-hashes" in command or ("--no-index" in command and "--no-deps" in command), command
        for name in re.findall(r"-r (\S+)", command):
            assert (ROOT / name).is_file()


def test_the_image_runs_as_an_ordinary_user_and_stops_on_sigterm() -> None:
    dockerfile = instructions((ROOT / "Dockerfile").read_text())
    last_stage = dockerfile[max(i for i, (name, _) in enumerate(dockerfile) if name == "FROM") :]
    said = dict(last_stage)
    assert not said["USER"].startswith(("0", "root"))
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert said["VOLUME"] == "/data"
    assert '"vantage", "healthcheck"' in said["HEALTHCHECK"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert re.findall(r'"(\w+)"', said["ENTRYPOINT"])[0] in scripts


def test_the_assets_stage_runs_no_install_script() -> None:
    npm = [
        rest for _, rest in instructions((ROOT / "Dockerfile").read_text()) if "npm" in rest and "ci" in rest.split()
    ]
    assert npm
    assert all("--ignore-scripts" in rest for rest in npm)


def test_the_dockerfile_is_clean_under_hadolint() -> None:
    run(BIN / "hadolint", "--failure-threshold", "style", "Dockerfile")


def test_hadolint_sees_a_bad_dockerfile(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp && sudo apt-get install curl\n")
    with pytest.raises(AssertionError, match="DL3004"):
        run(BIN / "hadolint", tmp_path / "Dockerfile")


def test_compose_fits_its_schema() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_the_schema_sees_a_bad_compose_file(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {vantage: {imagee: x}}\n")
    with pytest.raises(AssertionError, match="imagee"):
        run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", tmp_path / "compose.yaml")


def test_every_path_and_volume_compose_names_exists() -> None:
    document = compose()
    for service in document["services"].values():
        if "build" in service:
            context = service["build"] if isinstance(service["build"], str) else service["build"]["context"]
            assert (ROOT / context / "Dockerfile").is_file()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in document["volumes"], source


OWN = {"migrate", "collector", "worker", "api", "dashboard", "vantage"}  # services that run the image of this project
PORTS = {
    "clickhouse": {"8123", "9000"},
    "redpanda": {"9095", "8082", "9644"},
    "redpanda-console": {"8080"},
    "collector": {"8000"},
    "worker": {"9091"},
    "api": {"5000"},
    "dashboard": {"3000"},
}


def services() -> dict[str, dict[str, Any]]:
    return compose()["services"]


def test_the_profile_lite_is_one_container() -> None:
    lite = [name for name, service in services().items() if "lite" in service.get("profiles", [])]
    assert lite == ["vantage"]


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_container_of_the_image_is_hardened(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert name == "migrate" or service["healthcheck"]["test"] == ["CMD", "vantage", "healthcheck"]


def test_the_services_that_run_the_image_are_those_listed() -> None:
    assert {name for name, service in services().items() if "build" in service} == OWN


def test_every_port_is_published_on_loopback_alone() -> None:
    ports = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)
    for name, wanted in PORTS.items():
        assert {port.split(":")[1] for port in ports[name]} == wanted, name


def test_every_service_is_limited_in_memory_and_restarts() -> None:
    for name, service in services().items():
        assert "mem_limit" in service, name
        assert service["restart"] in {"unless-stopped", "on-failure:5"}, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["networks"] == ["vantage-network"], name


def test_a_service_waits_for_those_that_are_healthy() -> None:
    for name, service in services().items():
        for needed, wait in service.get("depends_on", {}).items():
            assert needed in services(), f"{name} waits for {needed}"
            if wait["condition"] == "service_healthy":
                assert "test" in services()[needed]["healthcheck"], f"{name} waits for {needed}, which has no check"


def test_a_container_serves_the_port_that_is_published() -> None:
    for name in OWN - {"migrate", "vantage"}:
        service = services()[name]
        assert [service["environment"]["VANTAGE_PORT"]] == [port.split(":")[2] for port in service["ports"]], name


def test_every_variable_of_vantage_in_compose_is_a_setting() -> None:
    names = {f"{PREFIX}{name.upper()}" for name in FIELDS}
    for name in OWN:
        assert set(services()[name]["environment"]) <= names, name


def test_compose_gives_every_role_what_it_needs() -> None:
    roles = {
        word.partition("=")[2]: name for name in OWN for word in services()[name].get("command", []) if "role" in word
    }
    assert set(roles) == set(ROLES) - {"all"}
    for role in roles:
        environment = services()[roles[role]]["environment"]
        assert environment["VANTAGE_STORE_URL"].startswith("clickhouse://vantage:")
        assert environment["VANTAGE_METADATA_URL"].startswith("postgresql://vantage:")
        assert environment["VANTAGE_BROKER_URL"] == "kafka://redpanda:9092"


def test_passwords_can_be_set() -> None:
    """Nothing but a default that says it is one is written in the file."""
    for name, service in services().items():
        for variable, value in service.get("environment", {}).items():
            for secret in re.findall(r"://\w+:([^@]*)@", value or "") + [value] * variable.endswith("PASSWORD"):
                assert re.fullmatch(r"\$\{\w+_PASSWORD:-vantage\}", secret), f"{name}: {variable}"


def test_the_image_can_be_served_without_the_packages_it_leaves_out() -> None:
    """Litestar requires them for examples in its schema, which are switched off."""
    locked = {re.split(r"[=\[]", line)[0] for line in (ROOT / "requirements/image.txt").read_text().splitlines()}
    left_out = {"polyfactory", "faker"}
    assert not locked & left_out
    program = (
        "import runpy, sys\n"
        f"for name in {sorted(left_out)}: sys.modules[name] = None\n"
        "sys.argv[0] = 'vantage'\n"
        "runpy.run_module('vantage', run_name='__main__')\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        running = Server(Path(folder) / "data", program=("-c", program)).wait_ready()
        try:
            assert running.get("/schema/openapi.json").status == 200
            assert running.get("/").status == 200
        finally:
            running.stop()
