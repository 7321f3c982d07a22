"""Issuer rotation: polls are called, the clock is given."""

from __future__ import annotations

from pathlib import Path

from mesh.control.issuer import IssuerDirectory
from mesh.control.metrics import Metrics
from mesh.control.pki import create_issuer, write_issuer_dir
from tests.mesh.control.builders import NOW, Realm, silent_log


def _open(tmp_path: Path, realm: Realm, clock=lambda: NOW):
    write_issuer_dir(tmp_path, realm.issuer, realm.anchor)
    log, said = silent_log()
    directory = IssuerDirectory(tmp_path, [realm.anchor.certificate], log, Metrics(), clock)
    directory.load()
    return directory, said


def test_a_new_issuer_is_taken_up_once(tmp_path: Path) -> None:
    realm = Realm()
    directory, said = _open(tmp_path, realm)
    assert not directory.poll()
    following = create_issuer(realm.anchor, now=NOW)
    write_issuer_dir(tmp_path, following, realm.anchor)
    assert directory.poll()
    assert not directory.poll()
    assert directory.issuer is not None
    assert directory.issuer.certificate == following.certificate
    assert said.getvalue().count("IssuerUpdated") == 1


def test_a_new_issuer_of_another_anchor_is_skipped_with_one_line(tmp_path: Path) -> None:
    realm = Realm()
    directory, said = _open(tmp_path, realm)
    stranger = Realm()
    write_issuer_dir(tmp_path, stranger.issuer, stranger.anchor)
    assert not directory.poll()
    assert not directory.poll()
    assert directory.issuer is not None
    assert directory.issuer.certificate == realm.issuer.certificate
    assert said.getvalue().count("IssuerUpdateSkipped") == 1


def test_a_half_written_rotation_is_taken_up_when_it_is_whole(tmp_path: Path) -> None:
    realm = Realm()
    directory, _ = _open(tmp_path, realm)
    following = create_issuer(realm.anchor, now=NOW)
    (tmp_path / "tls.crt").write_text(following.certificate_pem)
    assert not directory.poll()
    (tmp_path / "tls.key").write_text(following.key_pem)
    assert directory.poll()


def test_a_secret_that_vanishes_keeps_the_issuer(tmp_path: Path) -> None:
    realm = Realm()
    directory, said = _open(tmp_path, realm)
    (tmp_path / "tls.key").unlink()
    assert not directory.poll()
    assert not directory.poll()
    assert directory.issuer is not None
    assert said.getvalue().count("IssuerUpdateSkipped") == 1
