"""The build hook: fetches the front-end libraries and carries the resource folders into the wheel.

`python hatch_build.py` fetches the libraries for a checkout, without building anything.

Only the files that pages load go to static/vendor/, with their licences. npm runs without install scripts, because
swagger-ui-dist depends on one that reports home. The stamp is a hash of the lock file and of the list below, so a
second run does nothing, and a source distribution that carries the files builds without npm.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run by hand, by any Python
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parent
# Top-level folders that vantage.resources looks for, in a checkout and in the wheel.
RESOURCES = ("templates", "static", "migrations")
NPM_FILES = ("package.json", "package-lock.json", ".npmrc")
NPM_TIMEOUT_S = 300

# Path in node_modules -> name in static/vendor.
ASSETS = {
    "htmx.org/dist/htmx.min.js": "htmx.min.js",  # version 4: morph swaps (innerMorph, outerMorph) are built in
    "htmx.org/dist/ext/hx-ws.min.js": "hx-ws.min.js",
    "htmx.org/LICENSE": "htmx.LICENSE.txt",
    # The name has the version: browsers keep the file for a year, and the style sheet cannot add its hash.
    "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2": "inter-latin-5.woff2",
    "@fontsource-variable/inter/LICENSE": "inter.LICENSE.txt",
    "@dagrejs/dagre/dist/dagre.min.js": "dagre.min.js",
    "@dagrejs/dagre/LICENSE": "dagre.LICENSE.txt",
    "@dagrejs/dagre/dist/dagre.min.js.LEGAL.txt": "dagre.min.js.LEGAL.txt",
    "uplot/dist/uPlot.iife.min.js": "uPlot.iife.min.js",
    "uplot/dist/uPlot.min.css": "uPlot.min.css",
    "uplot/LICENSE": "uPlot.LICENSE.txt",
    "@codemirror/view/LICENSE": "codemirror.LICENSE.txt",
    "@lezer/common/LICENSE": "lezer.LICENSE.txt",
    "swagger-ui-dist/swagger-ui-bundle.js": "swagger-ui-bundle.js",
    "swagger-ui-dist/swagger-ui.css": "swagger-ui.css",
    "swagger-ui-dist/LICENSE": "swagger-ui.LICENSE.txt",
    "swagger-ui-dist/NOTICE": "swagger-ui.NOTICE.txt",
    "swagger-ui-dist/swagger-ui-bundle.js.LICENSE.txt": "swagger-ui-bundle.js.LICENSE.txt",
}
# Our scripts that are bundled with the libraries they import -> name in static/vendor.
BUNDLES = {"bundles/vql_editor.js": "vql_editor.min.js"}
BUNDLE_TIMEOUT_S = 120


class AssetsError(Exception):
    """The files could not be had; the message is one line for the person at the terminal."""


class ResourcesHook(BuildHookInterface):
    """Runs before hatchling collects files: fetches the libraries, and puts RESOURCES inside the package."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, dict[str, str]]) -> None:
        # An editable install serves the checkout's own folders, and `make setup` fetches the libraries. This is also
        # why the folders are not in pyproject.toml: hatchling would copy them into site-packages then.
        if version == "editable":
            return
        try:
            ensure_assets(ROOT)
        except AssetsError as error:
            sys.exit(f"vantage: {error}")
        if self.target_name == "wheel":
            for name in RESOURCES:
                build_data["force_include"][str(ROOT / name)] = f"vantage/_resources/{name}"


def ensure_assets(root: Path, *, node_modules: Path | None = None) -> bool:
    """Fill static/vendor/ from npm, or from an installed `node_modules`; False when it was already current."""
    vendor = root / "static" / "vendor"
    stamp = wanted_stamp(root)
    if is_current(vendor, stamp):
        return False
    if node_modules is not None:
        collect(root, node_modules, vendor, stamp)
        return True
    npm = shutil.which("npm")
    if npm is None:
        raise AssetsError("static/vendor is missing or out of date, and npm is not installed: install Node.js with npm")
    with tempfile.TemporaryDirectory(prefix="vantage-npm-") as folder:
        for name in NPM_FILES:
            shutil.copy(root / name, folder)
        install(npm, Path(folder))
        collect(root, Path(folder) / "node_modules", vendor, stamp)
    return True


def wanted_stamp(root: Path) -> str:
    """What static/vendor/ must have been made from."""
    content = repr(sorted([*ASSETS.items(), *BUNDLES.items()])).encode()
    for name in ("package-lock.json", *BUNDLES):
        try:
            content += (root / name).read_bytes()
        except OSError as error:
            raise AssetsError(f"cannot read {name}: {error.strerror}") from None
    return hashlib.sha256(content).hexdigest()


def is_current(vendor: Path, stamp: str) -> bool:
    try:
        installed = (vendor / ".stamp").read_text().strip()
    except OSError:
        return False
    return installed == stamp and all((vendor / name).is_file() for name in (*ASSETS.values(), *BUNDLES.values()))


def install(npm: str, folder: Path) -> None:
    command = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise AssetsError(f"npm ci did not finish in {NPM_TIMEOUT_S} s: is the network reachable?") from None
    if done.returncode != 0:
        reasons = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()]
        raise AssetsError(f"npm ci failed: {'; '.join(reasons[:3]) or f'exit code {done.returncode}'}")


def bundle(source: Path, node_modules: Path, target: Path) -> None:
    """Bundle a script with what it imports. esbuild is a program of its own, which needs no Node.js."""
    esbuild = next(iter(node_modules.glob("@esbuild/*/bin/esbuild")), None)
    if esbuild is None:
        raise AssetsError("esbuild has no program for this machine: see its list of platforms")
    options = ("--bundle", "--minify", "--format=iife", "--target=es2022", "--log-level=error")
    command = [esbuild, source, *options, f"--outfile={target}"]
    environ = {**os.environ, "NODE_PATH": str(node_modules)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUNDLE_TIMEOUT_S, check=False, env=environ
        )
    except subprocess.TimeoutExpired:
        raise AssetsError(f"esbuild did not finish in {BUNDLE_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise AssetsError(f"esbuild failed: {done.stderr.strip().splitlines()[:1]}")


def collect(root: Path, node_modules: Path, vendor: Path, stamp: str) -> None:
    """Copy beside the old folder, then swap: a server or a second build never sees half of it."""
    vendor.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".vendor-", dir=vendor.parent))
    try:
        fresh.chmod(0o755)
        for source, name in ASSETS.items():
            try:
                shutil.copyfile(node_modules / source, fresh / name)
            except OSError as error:
                raise AssetsError(f"cannot copy {source}: {error.strerror}") from None
        for source, name in BUNDLES.items():
            bundle(root / source, node_modules, fresh / name)
        (fresh / ".stamp").write_text(stamp + "\n")
        if vendor.exists():
            vendor.replace(fresh.with_name(f"{fresh.name}.old"))
        fresh.replace(vendor)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(fresh.with_name(f"{fresh.name}.old"), ignore_errors=True)


def main() -> None:
    """`--installed`: take ./node_modules as it is, for a build stage that has no npm."""
    installed = ROOT / "node_modules" if "--installed" in sys.argv[1:] else None
    try:
        fetched = ensure_assets(ROOT, node_modules=installed)
    except AssetsError as error:
        sys.exit(f"vantage: {error}")
    if fetched:
        print("Fetched the front-end libraries into static/vendor")


if __name__ == "__main__":
    main()
