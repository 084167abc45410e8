"""models.config and the flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.serving.config import (
    _ENUMS,
    _SERVER_CONFIG,
    AllVersions,
    Latest,
    ModelConfig,
    Specific,
    models_of,
    parse_models_config,
)  # fmt: skip
from services.serving.manager import ModelManager
from services.serving.options import parse_options
from services.serving.source import ModelsFolder
from services.serving.textproto import ConfigError, parse_text
from services.serving.watcher import Catalog, ConfigFile, Watcher

FULL = """
model_config_list {
  config {
    name: 'm'  base_path: '/models/m'  model_platform: 'tensorflow'
    model_version_policy { specific { versions: 42 versions: 43 } }
    version_labels { key: 'stable' value: 42 }
    version_labels { key: 'canary' value: 43 }
  }
  config: { name: "all", base_path: "/models/all", model_platform: "tensorflow",
    model_version_policy: { all: {} } },
  config: { name: "two", base_path: "/models/two", model_platform: "tensorflow",
    model_version_policy: { latest: { num_versions: 2 } } },
  config: { name: "zero", base_path: "/models/zero", model_platform: "tensorflow",
    model_version_policy: { latest: {} } },
  config: { name: "plain", base_path: "/models/plain", model_type: TENSORFLOW }
}
"""


def test_a_full_file() -> None:
    assert parse_models_config(FULL) == {
        "m": ModelConfig("m", "/models/m", Specific(frozenset({42, 43})), {"stable": 42, "canary": 43}),
        "all": ModelConfig("all", "/models/all", AllVersions()),
        "two": ModelConfig("two", "/models/two", Latest(2)),
        "zero": ModelConfig("zero", "/models/zero", Latest(1)),
        "plain": ModelConfig("plain", "/models/plain"),
    }
    assert parse_models_config("model_config_list {}") == {}
    assert parse_models_config("# to come", first=True) == {}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("improperly formatted file", "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:1"),
        ("", "it must hold a model_config_list"),
        ("model_config_list { config { name: 'm' base_path: 'rel' } }", "absolute path"),
        (
            "model_config_list { config { base_path: '/m' model_platform: 'tensorflow' } }",
            "a model has no name",
        ),
        (
            "model_config_list { config { name: 'm' base_path: '/m' model_platform: 'torch' } }",
            "requests unsupported platform torch",
        ),
        (
            "model_config_list { config { name: 'm' base_path: '/m' model_platform: 'tensorflow'"
            " logging_config {} } }",
            "logging_config",
        ),
        (
            "model_config_list { config { name: 'm' base_path: '/m' } config { name: 'm' base_path: '/n' } }",
            "Illegal to list model m multiple times",
        ),
    ],
)
def test_unusable_files(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        parse_models_config(text)


def test_a_file_that_becomes_unusable_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "models.config"
    path.write_text("model_config_list { config { name: 'm' base_path: '/m' model_platform: 'tensorflow' } }")
    file = ConfigFile(path, poll_seconds=1e-9)
    assert list(file.models()) == ["m"]
    path.write_text("model_config_list {")
    assert list(file.models()) == ["m"]
    assert list(file.models()) == ["m"]
    assert len(caplog.records) == 1
    path.write_text("model_config_list {}")
    assert list(file.models()) == []


def test_a_file_that_is_not_polled_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text("model_config_list { config { name: 'm' base_path: '/m' model_platform: 'tensorflow' } }")
    file = ConfigFile(path, poll_seconds=0)
    assert list(file.models()) == ["m"]
    path.write_text("model_config_list {}")
    assert list(file.models()) == ["m"]


def test_the_file_wins_over_the_folder(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "n").mkdir()
    path = tmp_path / "models.config"
    path.write_text(
        "model_config_list { config { name: 'm' base_path: '/m' model_platform: 'tensorflow'"
        " version_labels { key: 'a' value: 1 } } }"
    )
    models = Catalog({}, ConfigFile(path, 0), ModelsFolder(str(tmp_path))).models()
    assert models["m"].base_path == "/m"
    assert models["n"].base_path == str(tmp_path / "n")


def test_the_watcher_tells_changes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    told: list[tuple[str, list[int]]] = []
    monkeypatch.setattr(
        ModelManager, "want", lambda _self, name, versions, _labels: told.append((name, list(versions)))
    )
    monkeypatch.setattr(ModelManager, "forget", lambda _self, name: told.append((name, [])))
    watcher = Watcher(Catalog({}, None, ModelsFolder(str(tmp_path))), ModelManager(lambda _path: None), 1)  # type: ignore[arg-type,return-value]
    watcher.poll()
    watcher.poll()
    (tmp_path / "m" / "2").mkdir()
    watcher.poll()
    (tmp_path / "m").rename(tmp_path / ".m")
    watcher.poll()
    assert told == [("m", [1]), ("m", [2]), ("m", [])]


def test_flags() -> None:
    options = parse_options(
        [
            "--rest_api_port=8600",
            "--model_name",
            "m",
            "--model_base_path=/models/m",
            "--load_retry_interval_micros=500000",
            "--rest_api_enable_cors_support",
            "--enable_batching=false",
            "--port=0",
        ]
    )
    assert (options.port, options.model_name, options.cors) == (8600, "m", True)
    assert options.load_retry_seconds == 0.5
    assert options.poll_seconds == 1.0
    assert parse_options(["--models_dir=/models"]).poll_seconds == 0.2
    assert parse_options(["--models_dir=/models", "--file_system_poll_wait_seconds=5"]).poll_seconds == 5


def test_grpc_is_on_by_default_but_not_beside_a_folder_of_models() -> None:
    assert parse_options(["--model_base_path=/m"]).grpc.port == 8500
    assert not parse_options(["--model_base_path=/m"]).grpc.required
    folder = parse_options(["--models_dir=/m"])
    assert (folder.grpc.port, folder.grpc.wanted) == (0, False)
    asked = parse_options(
        ["--models_dir=/m", "--port=1234", "--grpc_channel_arguments=a.b=1,c=d,e=4294967296"]
    ).grpc
    assert (asked.port, asked.wanted, asked.required) == (1234, True, True)
    assert asked.channel_arguments == (("a.b", 1), ("c", "d"), ("e", "4294967296"))
    assert parse_options(["--models_dir=/m", "--grpc_socket_path=/tmp/s"]).grpc.wanted


def test_a_command_line_made_for_tensorflow_serving_is_understood() -> None:
    options = parse_options(
        """--port=8500 --rest_api_port=8501 --model_config_file=/c --model_config_file_poll_wait_seconds=30
        --monitoring_config_file= --allow_version_labels_for_unavailable_models=true --max_num_load_retries=1
        --num_load_threads=1 --num_unload_threads=1 --enable_batching=false --batching_parameters_file=
        --prefer_tflite_model=true --flush_filesystem_caches=true --enable_profiler=true --mixed_precision=bfloat16
        --tensorflow_session_parallelism=2 --saved_model_tags=serve,gpu --per_process_gpu_memory_fraction=0.5
        --enable_model_warmup=false --xla_gpu_compilation_enabled=false --xla_cpu_compilation_enabled""".split()
    )
    assert options.monitoring_config_file is None
    assert (options.intra_op_threads, options.inter_op_threads) == (2, 2)
    assert (options.saved_model_tags, options.gpu_memory_fraction) == (("serve", "gpu"), 0.5)
    assert (options.warmup_iterations, options.bfloat16) == (0, True)


def test_an_unknown_flag_is_named_and_does_no_harm_as_in_tensorflow_serving(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = parse_options(["--model_base_path=/m", "--no_such_flag=1", "nor_this"])
    assert options.model_base_path == "/m"
    assert capsys.readouterr().err == "unknown argument: --no_such_flag=1\nunknown argument: nor_this\n"


def test_one_flag_for_threads_makes_the_one_for_both_unheard() -> None:
    both = ["--model_base_path=/m", "--tensorflow_session_parallelism=3"]
    options = parse_options([*both, "--tensorflow_intra_op_parallelism=2"])
    assert (options.intra_op_threads, options.inter_op_threads) == (2, 0)


def test_the_platform_of_a_served_model_does_not_change() -> None:
    text = "model_config_list { config { name: 'm' base_path: '/m' model_platform: 'torch' } }"
    message = parse_text(text, _SERVER_CONFIG, "ModelServerConfig", enums=_ENUMS)
    with pytest.raises(ConfigError, match="Illegal to change a model's platform"):
        models_of(message, served={"m"})


def test_a_base_path_may_be_a_uri_of_the_local_file_system() -> None:
    assert parse_options(["--model_base_path=file:///m"]).model_base_path == "/m"
    text = "model_config_list { config { name: 'm' base_path: 'file:///m' model_platform: 'tensorflow' } }"
    assert parse_models_config(text)["m"].base_path == "/m"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_options(["--version"])
    assert caught.value.code == 0
    assert "Modelyard" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "nothing to serve"),
        (["--models_dir=/m", "--batching_parameters_file=/b"], "needs --enable_batching"),
        (["--models_dir=/m", "--platform_config_file=/p"], "--platform_config_file is not supported"),
        (["--models_dir=/m", "--grpc_channel_arguments=a"], "expected key=value, not 'a'"),
        (
            [
                "--models_dir=/m",
                *(f"--tensorflow_{name}_parallelism=2" for name in ("session", "intra_op", "inter_op")),
            ],
            "--tensorflow_session_parallelism stands for",
        ),
        (["--models_dir=/m", "--no_such_flag=1"], "unrecognized arguments: --no_such_flag=1"),
        (["--models_dir=/m", "--rest_api_port=x"], "expected a port's number or auto"),
        (["--models_dir=/m", "--rest_api_port=65536"], "expected a port's number or auto, not '65536'"),
        (["--models_dir=/m", "--port=-1"], "expected a port's number, not '-1'"),
        (["--model_base_path=m"], "must be absolute"),
        (["--models_dir=/m", "--rest_api_enable_cors_support=maybe"], "expected true or false"),
    ],
)
def test_unusable_flags_end_the_program_with_a_sentence(
    flags: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_options(flags)
    assert caught.value.code == 2
    assert part in capsys.readouterr().err
