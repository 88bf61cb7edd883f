"""Readers of corpora in their original layouts, on small hand-made copies."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from dualspec.data.corpora import READERS, CorpusSpec, SourceClip, berklee_recording, read_corpus
from dualspec.data.listings import LabelOrder, clean_label, licence_code
from dualspec.text.lexicon import LOCATION_STYLES, LocationStyle
from dualspec.text.prompts import blank_location, parse_prompt, prompt_for


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(name: str, root: Path) -> dict[str, SourceClip]:
    clips = list(read_corpus(CorpusSpec(name=name, root=root)))
    assert all(clip.corpus == name for clip in clips)
    return {clip.clip_id: clip for clip in clips}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0"),
        ("CC0", "CC0"),
        ("Creative Commons 0", "CC0"),
        ("http://creativecommons.org/licenses/by/3.0/", "CC-BY"),
        ("https://creativecommons.org/licenses/by/4.0/", "CC-BY"),
        ("Attribution", "CC-BY"),
        ("CC-BY", "CC-BY"),
        ("cc by 4.0", "CC-BY"),
        ("http://creativecommons.org/licenses/by-nc/3.0/", "CC-BY-NC"),
        ("Attribution NonCommercial", "CC-BY-NC"),
        ("Attribution Noncommercial", "CC-BY-NC"),
        ("CC-BY-NC", "CC-BY-NC"),
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/", "CC-BY-NC-SA"),
        ("CC BY-SA", "CC-BY-SA"),
        ("Attribution-NoDerivs", "CC-BY-ND"),
        ("http://creativecommons.org/licenses/sampling+/1.0/", "CC-Sampling+"),
        ("CC-Sampling+", "CC-Sampling+"),
        ("", "unknown"),
        ("all rights reserved", "all rights reserved"),
    ],
)
def test_licences_become_codes(text: str, code: str) -> None:
    assert licence_code(text) == code


def test_labels_become_plain_words() -> None:
    assert clean_label("Chirp_and__tweet ") == "chirp and tweet"


ESC_HEADER = "filename,fold,target,category,esc10,src_file,take"
ESC_LICENSE = """# ESC-50
101 - Dog:
- [1-100032-A.ogg]: clip derived from a (b).wav (http://www.freesound.org/people/nfrae/sounds/100032/) by nfrae [CC0]
- [4-40730-A.ogg]:  clip derived from r.wav (http://www.freesound.org/people/p q/sounds/40730/) by p q [CC-Sampling+]
"""


def esc50(root: Path) -> Path:
    rows = (
        "1-100032-A-0.wav,1,0,dog,True,100032,A",
        "4-40730-A-1.wav,4,1,rooster,True,40730,A",
        "5-9-B-36.wav,5,36,vacuum_cleaner,False,9,B",
    )
    write(root / "meta/esc50.csv", "\n".join((ESC_HEADER, *rows)) + "\n")
    write(root / "audio/1-100032-A-0.wav")
    write(root / "audio/4-40730-A-1.opus")
    return root


def test_esc50_takes_each_licence_from_the_collection(tmp_path: Path) -> None:
    clips = read("esc50", esc50(tmp_path))
    assert {clip.licence for clip in clips.values()} == {"CC-BY-NC"}
    write(tmp_path / "LICENSE", ESC_LICENSE)
    clips = read("esc50", tmp_path)
    dog, rooster, cleaner = clips["1-100032-A-0"], clips["4-40730-A-1"], clips["5-9-B-36"]
    assert (dog.licence, rooster.licence, cleaner.licence) == ("CC0", "CC-Sampling+", "CC-BY-NC")
    assert "by nfrae" in dog.attribution and "100032" in dog.attribution
    assert (dog.split_hint, rooster.split_hint, cleaner.split_hint) == ("train", "test", "test")
    assert dog.recording == "freesound:100032" and cleaner.labels == ("vacuum cleaner",)
    assert dog.path.name == "1-100032-A-0.wav" and rooster.path.suffix == ".opus" and not cleaner.path.exists()
    assert set(read("esc10", tmp_path)) == {"1-100032-A-0", "4-40730-A-1"}


def test_esc50_prefers_a_licence_column(tmp_path: Path) -> None:
    write(tmp_path / "LICENSE", ESC_LICENSE)
    write(tmp_path / "meta/esc50.csv", f"{ESC_HEADER},licence\n1-100032-A-0.opus,1,0,dog,True,100032,A,CC-BY\n")
    assert read("esc50", tmp_path)["1-100032-A-0"].licence == "CC-BY"


def test_urbansound8k_is_read_with_and_without_its_table(tmp_path: Path) -> None:
    write(tmp_path / "audio/fold1/7061-6-0-0.wav")
    write(tmp_path / "audio/fold10/100648-1-0-0.wav")
    write(tmp_path / "audio/fold10/.DS_Store")
    header = "slice_file_name,fsID,start,end,salience,fold,classID,class"
    rows = "100648-1-0-0.wav,100648,4.8,5.4,2,10,1,car_horn\n7061-6-0-0.wav,7061,0,1,1,1,6,gun_shot\n"
    plain = read("urbansound8k", tmp_path)
    write(tmp_path / "metadata/UrbanSound8K.csv", f"{header}\n{rows}")
    assert read("urbansound8k", tmp_path) == plain
    horn = plain["100648-1-0-0"]
    assert (horn.labels, horn.recording, horn.licence) == (("car horn",), "freesound:100648", "CC-BY-NC")
    assert horn.path.is_file() and horn.split_hint is None


VOCABULARY = (Path(__file__).with_name("fsd50k_labels.txt")).read_text().split()  # FSD50K, CC BY 4.0, in its own order


def fsd50k(root: Path) -> Path:
    """Four clips in the layout of Zenodo record 4060432, with the real vocabulary and the real words for licences."""
    mids = {"Electric_guitar": "/m/02sgy", "Guitar": "/m/0342h", "Bird": "/m/015p6"}
    vocabulary = (f"{index},{label},{mids.get(label, '/m/1')}\n" for index, label in enumerate(VOCABULARY))
    write(root / "FSD50K.ground_truth/vocabulary.csv", "".join(vocabulary))
    guitar = '"Electric_guitar,Guitar,Plucked_string_instrument,Musical_instrument,Music"'
    plain = '"Guitar,Plucked_string_instrument,Musical_instrument,Music"'
    dev = (
        f'fname,labels,mids,split\n64760,{guitar},"/m/02sgy,/m/0342h",train\n5,"Music,Musical_instrument","/m/1",val\n'
    )
    write(root / "FSD50K.ground_truth/dev.csv", f'{dev}6,{plain},"/m/0342h",train\n')
    write(root / "FSD50K.ground_truth/eval.csv", 'fname,labels,mids\n99,"Boat_and_Water_vehicle",/m/019jd\n')
    kinds = {"64760": "licenses/by/3.0/", "5": "licenses/by-nc/3.0/", "6": "licenses/sampling+/1.0/"}
    infos = {
        number: {
            "title": "x.wav",
            "description": "",
            "tags": ["loop"],
            "license": f"http://creativecommons.org/{kind}",
            "uploader": f"user {number}",
        }
        for number, kind in (kinds | {"99": "publicdomain/zero/1.0/"}).items()
    }
    for part, numbers in (("dev", ("64760", "5", "6")), ("eval", ("99",))):
        info = {number: infos[number] for number in numbers}
        write(root / f"FSD50K.metadata/{part}_clips_info_FSD50K.json", json.dumps(info))
        for number in numbers:
            write(root / f"FSD50K.{part}_audio/{number}.wav")
    return root


def test_fsd50k_is_read_in_its_own_layout(tmp_path: Path) -> None:
    clips = read("fsd50k", fsd50k(tmp_path))
    assert {name: clip.split_hint for name, clip in clips.items()} == {
        "64760": "train",
        "5": "valid",
        "6": "train",
        "99": "test",
    }
    assert [clip.licence for clip in clips.values()] == ["CC-BY", "CC-BY-NC", "CC-Sampling+", "CC0"]
    guitar = clips["64760"]
    assert guitar.labels[0] == "electric guitar" and guitar.labels[-1] == "music" and len(guitar.labels) == 5
    assert "by user 64760" in guitar.attribution and guitar.recording == "freesound:64760"
    assert all(clip.path.is_file() for clip in clips.values())


def test_fsd50k_without_metadata_has_no_licences(tmp_path: Path) -> None:
    (fsd50k(tmp_path) / "FSD50K.metadata/dev_clips_info_FSD50K.json").unlink()
    assert [clip.licence for clip in read("fsd50k", tmp_path).values()] == ["unknown"] * 3 + ["CC0"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("dev", 'fname,labels,mids,split\n1,"Dog,Animal",/m/1,dev\n', r"dev\.csv:2: split must be train or val"),
        ("dev", 'fname,labels,mids,split\n1,"Dog,Wolf",/m/1,val\n', r"got 'val', \['Wolf'\]"),
        ("dev", 'fname,labels,mids\n1,"Dog",/m/1\n', "must have the columns fname, labels, split"),
        ("eval", 'fname,label,mids\n1,"Dog",/m/1\n', "must have the columns fname, labels"),
        ("eval", 'fname,labels,mids\nx,"Dog",/m/1\n', "fname must be a number"),
        ("vocabulary", "Dog,/m/1\n", "must hold index, label and mid"),
    ],
)
def test_other_lists_than_fsd50ks_are_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    write(fsd50k(tmp_path) / f"FSD50K.ground_truth/{file}.csv", text)
    with pytest.raises(ValueError, match=message):
        read("fsd50k", tmp_path)


@pytest.mark.parametrize("style", LOCATION_STYLES)
def test_every_label_of_fsd50k_makes_a_prompt_that_is_understood(style: LocationStyle) -> None:
    """The 70 labels of ARCA23K are among these."""
    assert len(set(VOCABULARY)) == 200
    for number, label in enumerate(map(clean_label, VOCABULARY)):
        prompt = prompt_for(label, 30.0 * (number % 12), style)
        parsed = parse_prompt(prompt)
        assert parsed.event.lower() == label and parsed.azimuth is not None
        assert parsed.azimuth.azimuth_deg == 30.0 * (number % 12)
        assert blank_location(prompt).lower() == f"event: {label}"


def test_labels_are_ordered_from_specific_to_general() -> None:
    order = LabelOrder([["A", "B", "C"], ["B", "C"], ["C"], ["D", "C"]])
    assert order.specific_first(["C", "B", "A"]) == ["A", "B", "C"]
    assert order.specific_first(["C", "D", "A", "B"]) == ["D", "A", "B", "C"]


def arca23k(root: Path, infos: object) -> Path:
    """The layout of Zenodo record 5117901; the validation and test lists name clips of FSD50K."""
    for part, number in (("train", 1), ("val", 2), ("test", 3)):
        write(root / f"ARCA23K.ground_truth/{part}.csv", f"fname,label,mid\n{number},Wind_chime,/m/026fgl\n")
        write(root / f"ARCA23K-FSD.ground_truth/{part}.csv", "fname,label,mid\n4,Wind_chime,/m/026fgl\n")
    write(root / "ARCA23K.audio/1.wav")
    write(root / "ARCA23K.metadata/train.json", json.dumps(infos))
    return root


@pytest.mark.parametrize(
    "infos",
    [
        {"1": {"license": "http://creativecommons.org/licenses/by-nc/3.0/", "username": "u"}},
        [{"id": 1, "license": "Attribution NonCommercial", "username": "u"}],
    ],
)
def test_arca23k_has_its_own_clips_and_leaves_fsd50ks_to_it(tmp_path: Path, infos: object) -> None:
    clips = read("arca23k", arca23k(tmp_path, infos))
    assert set(clips) == {"1"} and clips["1"].split_hint == "train" and clips["1"].path.is_file()
    assert clips["1"].labels == ("wind chime",) and clips["1"].recording == "freesound:1"
    assert clips["1"].licence == "CC-BY-NC" and "by u" in clips["1"].attribution


def test_arca23k_without_metadata_has_no_licences(tmp_path: Path) -> None:
    (arca23k(tmp_path, {}) / "ARCA23K.metadata/train.json").unlink()
    assert read("arca23k", tmp_path)["1"].licence == "unknown"
    write(tmp_path / "ARCA23K.metadata/train.json", '["CC0"]')
    with pytest.raises(ValueError, match="must map clip ids to their infos"):
        read("arca23k", tmp_path)


def test_folders_named_by_label_need_no_list(tmp_path: Path) -> None:
    for name in ("Church_bell/a.wav", "Church_bell/old/b.flac", "dog/a.ogg", "dog/notes.txt", ".git/x.wav", "c.wav"):
        write(tmp_path / name)
    clips = read("folder", tmp_path)
    assert {name: clip.labels for name, clip in clips.items()} == {
        "Church_bell/a": ("church bell",),
        "Church_bell/old/b": ("church bell",),
        "dog/a": ("dog",),
    }
    assert all(clip.path.is_file() and clip.licence == "unknown" for clip in clips.values())
    assert clips["dog/a"].recording == "folder:dog/a"
    write(tmp_path / "labels.csv", "file,label\nc.wav,cat\n")
    assert set(read("folder", tmp_path)) == {"c"}, "a list says which clips count"


def test_a_plain_folder_needs_only_file_and_label(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "file,label\na/Dog.wav,Dog; Animal\n")
    clip = read("folder", tmp_path)["a/Dog"]
    assert clip.labels == ("dog", "animal") and clip.licence == "unknown" and clip.recording == "folder:a/Dog"
    rows = "x.wav,Cat,CC0,tape 1,test\ny.wav,Cat,by,freesound:9,\n"
    write(tmp_path / "labels.csv", f"file,label,licence,recording,split\n{rows}")
    clips = read("folder", tmp_path)
    assert (clips["x"].recording, clips["x"].split_hint, clips["x"].licence) == ("folder:tape 1", "test", "CC0")
    assert (clips["y"].recording, clips["y"].split_hint) == ("freesound:9", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,labels\na.wav,dog\n", "must have the columns"),
        ("file,label\na.wav\n", r"labels\.csv:2 must have 2 fields"),
        ("file,label\na.wav,dog,more\n", "must have 2 fields"),
        ("file,label\n../a.wav,dog\n", "inside the corpus"),
        ("file,label\n/etc/a.wav,dog\n", "inside the corpus"),
        ("file,label\n,dog\n", "inside the corpus"),
        ("file,label\na.wav, ; \n", "label must not be empty"),
        ("file,label,split\na.wav,dog,dev\n", "split be one of"),
        ("", "must have the columns"),
    ],
)
def test_bad_lists_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "labels.csv", text)
    with pytest.raises(ValueError, match=message):
        read("folder", tmp_path)


def test_lists_in_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("file,label\nä.wav,dog\n".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        read("folder", tmp_path)


def test_wrong_numbers_and_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "e/meta/esc50.csv", f"{ESC_HEADER}\na.wav,6,0,dog,True,1,A\n")
    with pytest.raises(ValueError, match="fold must be 1 to 5"):
        read("esc50", tmp_path / "e")
    write(tmp_path / "u/metadata/UrbanSound8K.csv", "slice_file_name,fold\nx.wav,1\n")
    with pytest.raises(ValueError, match="fsID-classID"):
        read("urbansound8k", tmp_path / "u")
    write(tmp_path / "a/ARCA23K.ground_truth/train.csv", "fname,label,mid\n../1,Dog,/m/1\n")
    with pytest.raises(ValueError, match="fname must be a number"):
        read("arca23k", tmp_path / "a")


def test_unknown_readers_and_absent_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="corpus must be one of"):
        read("audioset", tmp_path)
    for name in READERS:
        with pytest.raises(FileNotFoundError):
            read(name, tmp_path / "none")
        with pytest.raises(FileNotFoundError):
            read(name, tmp_path)


@pytest.mark.parametrize(
    ("stem", "recording"),
    [
        ("bell_2b", "bell"),
        ("bell1", "bell"),
        ("Kalimba_4", "kalimba"),
        ("femalevoice_aa_Db4", "femalevoice_aa"),
        ("femalevoice_oo_femalevoice_oo_A3", "femalevoice_oo"),
        ("femalevoices_oo2_C#5", "femalevoices_oo"),
        ("bamboo_a#4_1", "bamboo"),
        ("prep_pianoG#0", "prep_piano"),
        ("prep_piano_C0_1", "prep_piano"),
        ("casiohorn1+b3", "casiohorn"),
        ("Arp_note+2wholesteps", "arp_note"),
        ("woodblock_pitched-LOWERsol", "woodblock_pitched"),
        ("woodblock_pitched-mi", "woodblock_pitched"),
        ("guitar_LowEstring2", "guitar"),
        ("Slam(loud)", "slam"),
        ("hollowhitSOFT", "hollowhit"),
        ("tinklingchain1LONG", "tinklingchain"),
        ("iron_bell4_fast_harmonics", "iron_bell"),
        ("marble_drop1.wav_09.35", "marble_drop"),
        ("elevator_!", "elevator"),
        ("hallwaytalking_", "hallwaytalking"),
        ("Analogsynth2_highmid", "analogsynth"),
        ("metalscrape4short", "metalscrape"),
        ("glass_break", "glass_break"),
        ("dog", "dog"),
    ],
)
def test_takes_and_pitches_of_one_berklee_session_share_a_recording(stem: str, recording: str) -> None:
    assert berklee_recording(stem) == recording


def test_berklee_keeps_what_is_marked(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "file,label,category,keep\nBell_1.opus,Bell,metal,1\nx.opus,X,noise,0\n")
    clips = read("berklee", tmp_path)
    assert set(clips) == {"Bell_1"} and clips["Bell_1"].recording == "berklee:bell"
    assert clips["Bell_1"].licence == "CC-BY" and "Berklee" in clips["Bell_1"].attribution


def test_the_real_lists_hold_the_counts_that_were_counted_by_hand(shared_data: Path) -> None:
    esc = read("esc50", shared_data / "esc50")
    open_by_split = Counter(clip.split_hint for clip in esc.values() if clip.licence in ("CC0", "CC-BY"))
    assert len(esc) == 1600 and open_by_split == {"train": 1028, "test": 373}
    train = {clip.recording for clip in esc.values() if clip.split_hint == "train"}
    assert not train & {clip.recording for clip in esc.values() if clip.split_hint == "test"}
    berklee = read("berklee", shared_data / "berklee")
    assert len(berklee) == 2221 and all(clip.path.is_file() for clip in berklee.values())
    urban = read("urbansound8k", shared_data / "urbansound8k")
    assert len(urban) == 837 and len({clip.labels for clip in urban.values()}) == 10
