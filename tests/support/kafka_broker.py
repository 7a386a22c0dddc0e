"""A real Kafka broker: one node that is also its own controller, on loopback, for as long as the test runs."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.support.environments import CACHE, alone, cannot
from tests.support.programs import STOP_TIMEOUT_S, free_port
from tests.support.wait import wait_until

VERSION: Final = "4.4.0"
LOGGER: Final = "1.7.36"
PLUGIN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
FETCH_TIMEOUT_S: Final = 400
START_TIMEOUT_S: Final = 90.0
CLUSTER_ID: Final = "dmFudGFnZS10ZXN0cy0wMQ"  # 16 bytes in base64
USER: Final = "vantage"
PASSWORD: Final = "p4ss/w0rd@"  # characters that a URL encodes
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
SECURED: Final = ("SASL_PLAINTEXT", "SASL_SSL", "SSL")  # listeners of a broker with a certificate
POM: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>vantage</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{LOGGER}</version></dependency>
</dependencies></project>"""
# One node replicates nothing, and a restart or a consumer that dies is noticed within seconds.
SETTINGS: Final = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "min.insync.replicas": "1",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "log.cleaner.dedupe.buffer.size": "2097152",
    "controlled.shutdown.enable": "false",
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "250",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "300",
    "group.consumer.heartbeat.interval.ms": "500",
}


def jars() -> Path:
    """Return the folder of the broker's jars, fetched by Maven on first use. If that fails the test is skipped; in CI
    it fails."""
    folder = CACHE / f"kafka-{VERSION}"
    maven, java = shutil.which("mvn"), shutil.which("java")
    if maven is None or java is None:
        cannot("a Kafka broker needs Java 17 and Maven, which fetches it: apt-get install default-jre-headless maven")
    with alone("kafka"):
        if not (folder / "fetched").exists():
            folder.mkdir(exist_ok=True)
            (folder / "pom.xml").write_text(POM)
            command = [maven, "-q", "-B", "-f", str(folder / "pom.xml"), PLUGIN, "-DincludeScope=runtime"]
            command.append(f"-DoutputDirectory={folder}")
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                cannot(f"Kafka cannot be fetched within {FETCH_TIMEOUT_S} s by Maven")
            if done.returncode:
                cannot(f"Kafka cannot be fetched by Maven: {done.stdout.strip()[-500:]}")
            (folder / "fetched").touch()
    return folder


def secured(certificate: tuple[Path, Path]) -> dict[str, str]:
    """Return the settings of the listeners SECURED: a certificate and its key, and one user by each mechanism."""
    pem, key = certificate
    keystore = pem.with_name("keystore.pem")
    keystore.write_text(key.read_text() + pem.read_text())
    modules = "org.apache.kafka.common.security"
    plain = f'{modules}.plain.PlainLoginModule required username="{USER}" user_{USER}="{PASSWORD}";'
    settings = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
    }
    for listener in ("sasl_plaintext", "sasl_ssl"):
        for mechanism in MECHANISMS:
            login = plain if mechanism == "PLAIN" else f"{modules}.scram.ScramLoginModule required;"
            settings[f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config"] = login
    return settings


class KafkaBroker:
    """A broker on a data folder, which keeps its ports. With a ``certificate`` it has the listeners SECURED too."""

    def __init__(self, folder: Path, *, certificate: tuple[Path, Path] | None = None, **settings: str) -> None:
        self._jars = jars()
        self._folder = folder
        self._settings = {**SETTINGS, **(secured(certificate) if certificate else {}), **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self._controller_port = free_port(), free_port()
        self.ports = {"PLAINTEXT": self.port, **{name: free_port() for name in SECURED if certificate}}

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    def secured_url(self, listener: str, options: str = "", password: str = PASSWORD) -> str:
        """Return the URL of a listener, with the user of those that have one."""
        login = f"{USER}:{quote(password, safe='')}@" if listener.startswith("SASL") else ""
        return f"kafka://{login}127.0.0.1:{self.ports[listener]}{options}"

    def _java(self, heap: str, *arguments: str) -> list[str]:
        options = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]
        options.append("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        return ["java", *options, "-cp", f"{self._jars}/*", *arguments]

    @property
    def _classes(self) -> Path:
        return self._jars / "classes.jsa"

    @property
    def _new_classes(self) -> Path:
        return self._folder / "classes.jsa"

    def start(self) -> None:
        """Start, and wait until it answers."""
        config, data = self._folder / "server.properties", self._folder / "log"
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        settings = self._settings | {
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ",".join(
                ["CONTROLLER:PLAINTEXT", *(f"{name}:{name}" for name in self.ports)]
            ),
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "log.dirs": str(data),
        }
        config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        # Java shares the classes of an archive, which halves what a start takes. The first broker to stop makes it.
        archive = self._classes if self._classes.exists() else None
        option = f"-XX:SharedArchiveFile={archive}" if archive else f"-XX:ArchiveClassesAtExit={self._new_classes}"
        with (self._folder / "broker.log").open("ab") as log:
            if not data.exists():
                shutil.copytree(self._formatted(), data)
            self._process = subprocess.Popen(
                self._java("256m", option, "kafka.Kafka", str(config)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        wait_until(self._answers, START_TIMEOUT_S, 0.1)

    def _formatted(self) -> Path:
        """Return an empty data folder, which takes two seconds to make and is the same for every broker."""
        folder = self._jars / ("formatted-secured" if len(self.ports) > 1 else "formatted")
        with alone("kafka"):
            if not folder.exists():
                unnamed = folder.with_suffix(".new")
                shutil.rmtree(unnamed, ignore_errors=True)
                config = self._folder / "format.properties"
                lines = (self._folder / "server.properties").read_text().splitlines()
                settings = [line for line in lines if not line.startswith("log.dirs=")]
                config.write_text("\n".join([*settings, f"log.dirs={unnamed}"]) + "\n")
                form = self._java("64m", "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(config))
                for mechanism in MECHANISMS[1:] if len(self.ports) > 1 else ():
                    form += ["--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]"]
                subprocess.run(form, check=True, capture_output=True)
                unnamed.rename(folder)
        return folder

    def _answers(self) -> bool:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        assert self._process is not None
        assert self._process.poll() is None, f"Kafka ended:\n{self.log()}"
        client = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0})
        with contextlib.suppress(KafkaException):
            return bool(client.list_topics(timeout=2).brokers)
        return False

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def end(self) -> None:
        """End it when its data is to be deleted: nothing needs to be closed in order."""
        if self._classes.exists():
            self.kill()
            return
        self.stop()
        if self._new_classes.exists():
            unnamed = self._classes.with_suffix(f".{self.port}")
            shutil.copyfile(self._new_classes, unnamed)
            unnamed.rename(self._classes)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Let it hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """Return the end of the broker's log."""
        return (self._folder / "broker.log").read_text(errors="replace")[-4000:]


@contextlib.contextmanager
def running_kafka(
    *, within: Path | None = None, certificate: tuple[Path, Path] | None = None, **settings: str
) -> Iterator[KafkaBroker]:
    """Run a broker on an empty folder, ``within`` another if that is given."""
    with tempfile.TemporaryDirectory(dir=within) as name:
        broker = KafkaBroker(Path(name), certificate=certificate, **settings)
        broker.start()
        try:
            yield broker
        finally:
            broker.end()
