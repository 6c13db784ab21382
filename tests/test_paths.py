"""Two paths of one file."""

from eddsrn_jax import paths
from eddsrn_jax.paths import file_key


def test_the_case_of_folders_does_not_matter_either(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_ignores_case", lambda folder: True)
    place = tmp_path / "Photos" / "2026" / "a.jpg"
    assert file_key(place) == file_key(tmp_path / "PHOTOS" / "2026" / "A.JPG")
    assert file_key(place) != file_key(tmp_path / "Photos2" / "2026" / "a.jpg")


def test_case_matters_only_where_it_names_other_files(tmp_path):
    (photo := tmp_path / "photo.png").touch()
    assert file_key(photo) != file_key(tmp_path / "PHOTO.PNG")
    assert file_key(tmp_path / "a" / ".." / "photo.png") == file_key(photo)
    # A second name of the same file, as a file system without case would have.
    (tmp_path / "PHOTO.PNG").hardlink_to(photo)
    paths._ignores_case.cache_clear()
    assert file_key(photo) == file_key(tmp_path / "PHOTO.PNG")
    assert file_key(tmp_path / "New.png") == file_key(tmp_path / "new.png")
    paths._ignores_case.cache_clear()
