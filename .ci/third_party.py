"""Writes which crates the programs of a package contain: a bill of materials for each, and all licences.

    python .ci/third_party.py FOLDER
"""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

TARGETS = ["aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"]
# Names of the files in which crates keep their licences.
LICENCE_FILE = re.compile(r"(?i)^(licen[cs]e|copying|notice|unlicense)")


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def dependencies(package):
    """Returns the crates that a package links, each as (name, version), with the set of its own dependencies."""
    graph = {}
    for target in TARGETS:
        tree = output("cargo", "tree", "--locked", "--package", package, "--edges", "normal", "--target", target,
                      "--prefix", "depth", "--format", " {p} ")
        path = []
        for line in tree.splitlines():
            depth, name, version = re.match(r"(\d+) (\S+) v(\S+) ", line).groups()
            path[int(depth):] = [(name, version)]
            graph.setdefault(path[-1], set())
            if len(path) > 1:
                graph[path[-2]].add(path[-1])
    return graph


def bill_of_materials(root, graph, crates, checksums):
    """Returns the bill of materials of a program as CycloneDX JSON."""
    licences = LicenseFactory()
    components = {}
    for name, version in sorted(graph):
        checksum = checksums.get((name, version))
        components[name, version] = Component(
            name=name, version=version, bom_ref=f"{name}@{version}",
            type=ComponentType.APPLICATION if name == root else ComponentType.LIBRARY,
            purl=PackageURL("cargo", None, name, version),
            licenses=[licences.make_from_string(crates[name, version]["license"].replace("/", " OR "))],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=checksum)] if checksum else [],
        )
    [program] = [component for (name, _), component in components.items() if name == root]
    commit, seconds = output("git", "log", "-1", "--format=%H %ct").split()
    bom = Bom(components=[component for component in components.values() if component is not program])
    bom.metadata.component = program
    # The same commit gives the same bytes.
    bom.metadata.timestamp = datetime.fromtimestamp(int(seconds), UTC)
    bom.serial_number = uuid5(NAMESPACE_URL, f"{commit}/{root}")
    for key, children in graph.items():
        bom.register_dependency(components[key], [components[child] for child in children])
    text = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem:
        sys.exit(f"the bill of materials of {root} is invalid: {problem}")
    return text


def licence_texts(keys, crates):
    """Returns the licences of the crates, and the texts of their licence files, each text once.

    A crate without such a file has its licence in the list only.
    """
    expressions, texts = [], {}
    for name, version in sorted(keys):
        crate = crates[name, version]
        expressions.append(f"{name} {version}: {crate['license']}")
        folder = Path(crate["manifest_path"]).parent
        for path in sorted(folder.iterdir()):
            if path.is_file() and LICENCE_FILE.match(path.name):
                text = path.read_text(errors="replace").strip()
                texts.setdefault(text, []).append(f"{name} {version}")
    parts = ["The programs contain these crates, and Rust's standard library (MIT OR Apache-2.0):\n"]
    parts.append("\n".join(expressions))
    parts += [f"{'=' * 80}\n{', '.join(names)}\n\n{text}" for text, names in texts.items()]
    return "\n\n".join(parts) + "\n"


def main():
    folder = Path(sys.argv[1])
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1"))
    crates = {(crate["name"], crate["version"]): crate for crate in metadata["packages"]}
    lock = Path("Cargo.lock").read_text()
    checksums = {(name, version): checksum for name, version, checksum in
                 re.findall(r'name = "(.+)"\nversion = "(.+)"\nsource = .+\nchecksum = "(.+)"', lock)}
    keys = set()
    for root in ["save-draft", "drafts"]:
        graph = dependencies(root)
        (folder / f"{root}.cdx.json").write_text(bill_of_materials(root, graph, crates, checksums))
        keys |= {key for key in graph if crates[key]["source"]}
    (folder / "THIRD-PARTY-LICENSES.txt").write_text(licence_texts(keys, crates))


main()
