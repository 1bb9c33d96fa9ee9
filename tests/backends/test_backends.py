"""The parsers on recorded output, and the CPU backend on this machine.

macOS output is as documented by Apple, never recorded by this project. nvidia-smi's is its documented CSV form.
"""

import sys
from pathlib import Path

import pytest

from llmctl import backends
from llmctl.backends import Memory, cpu, cuda, metal
from llmctl.errors import UnknownName, Unsupported

GIB = 2**30
MEMINFO = """MemTotal:       24684084 kB
MemFree:        21210292 kB
MemAvailable:   23806384 kB
HugePages_Total:       0
"""
NVIDIA_SMI = """0, GPU-1f0a3e2c-0000-0000-0000-000000000001, NVIDIA GeForce RTX 4090, 24564, 23989
1, GPU-9b7d5c11-0000-0000-0000-000000000002, NVIDIA GeForce RTX 3090, 24576, 1210
"""
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            300000.
Pages inactive:                           20000.
Pages speculative:                         3000.
Pages throttled:                              0.
Pages wired down:                        100000.
Pages purgeable:                            400.
"Translation faults":                 123456789.
"""


def test_meminfo():
    assert cpu.parse_meminfo(MEMINFO) == Memory(24684084 * 1024, 23806384 * 1024)


def test_meminfo_without_available():
    with pytest.raises(Unsupported, match="MemAvailable"):
        cpu.parse_meminfo("MemTotal: 1 kB\n")


def test_cgroup_folders_up_to_the_root():
    text = "0::/user.slice/user@1000.service/app.slice\n"
    assert cpu.cgroup_folders(text, Path("/c")) == [
        Path("/c/user.slice/user@1000.service/app.slice"),
        Path("/c/user.slice/user@1000.service"),
        Path("/c/user.slice"),
        Path("/c"),
    ]
    assert cpu.cgroup_folders("4:memory:/old\n", Path("/c")) == []  # version 1


@pytest.mark.parametrize(
    ("limit", "current", "stat", "expected"),
    [
        ("max\n", "5", "", Memory(100, 80)),
        ("", "", "", Memory(100, 80)),
        ("60\n", "50\n", "anon 30\ninactive_file 20\n", Memory(60, 30)),
        ("60\n", "70\n", "inactive_file 5\n", Memory(60, 0)),
        ("1000\n", "10\n", "", Memory(100, 80)),
    ],
)
def test_cgroup_limit(limit, current, stat, expected):
    assert cpu.within_cgroup(Memory(100, 80), limit, current, stat) == expected


def test_memory_honours_a_lower_cgroup_limit(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text(str(GIB))
    (tmp_path / "memory.current").write_text(str(GIB // 2))
    monkeypatch.setattr(cpu, "cgroup_folders", lambda text, root: [tmp_path])
    assert cpu.memory() == Memory(GIB, min(GIB // 2, cpu.memory().free))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_this_machine():
    memory = cpu.memory()
    assert 0 < memory.free <= memory.total
    assert 1 <= cpu.physical_cores() <= 1024


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu sse avx512_bf16 fma\n", True),
        ("Features\t: fp asimd bf16 sve\n", True),
        ("flags\t\t: fpu sse avx2\nbugs\t\t: bf16\n", False),
        ("", False),
    ],
)
def test_bf16(text, expected):
    assert cpu.has_bf16(text) is expected


def test_nvidia_smi():
    first, second = cuda.parse_nvidia_smi(NVIDIA_SMI)
    assert (first.index, first.name) == ("0", "NVIDIA GeForce RTX 4090")
    assert second.memory == Memory(24576 * 2**20, 1210 * 2**20)


def test_nvidia_smi_without_numbers():
    assert cuda.parse_nvidia_smi("0, GPU-1, NVIDIA GB10, [N/A], [N/A]\n") == []
    assert cuda.parse_nvidia_smi("No devices were found\n") == []


@pytest.mark.parametrize(
    ("setting", "indexes"),
    [(None, ["0", "1"]), ("1", ["1"]), ("GPU-9b7d", ["1"]), ("", []), ("-1", []), ("0,1", ["0", "1"])],
)
def test_visible_gpus(setting, indexes):
    assert [g.index for g in cuda.visible(cuda.parse_nvidia_smi(NVIDIA_SMI), setting)] == indexes


def test_cuda_memory_is_that_of_the_freest_gpu(monkeypatch):
    monkeypatch.setattr(cpu, "command", lambda *argv: NVIDIA_SMI)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cuda.memory().free == 23989 * 2**20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cuda.memory().free == 1210 * 2**20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(Unsupported):
        cuda.memory()


def test_no_nvidia_smi(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert not cuda.detect()
    with pytest.raises(Unsupported, match="nvidia-smi"):
        cuda.gpus()


def test_vm_stat():
    assert cpu.parse_vm_stat(VM_STAT) == 16384 * (10000 + 20000 + 3000 + 400)


def test_metal_working_set():
    assert metal.working_set(64 * GIB, 0) == 48 * GIB
    assert metal.working_set(24 * GIB, 0) == 16 * GIB
    assert metal.working_set(64 * GIB, 57344) == 56 * GIB
    assert metal.working_set(64 * GIB, 10**9) == 64 * GIB


def test_metal_memory(monkeypatch):
    answers = {"hw.memsize": str(64 * GIB), "vm_stat": VM_STAT}

    def command(*argv):
        if argv[-1] not in answers:
            raise Unsupported("no such key")
        return answers[argv[-1]]

    monkeypatch.setattr(cpu, "command", command)
    assert metal.memory() == Memory(48 * GIB, cpu.parse_vm_stat(VM_STAT))
    answers["iogpu.wired_limit_mb"] = "256\n"
    assert metal.memory() == Memory(GIB // 4, GIB // 4)


def test_environment_of_an_engine():
    base = {"PATH": "/bin", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "1", "HF_TOKEN": "hf_secret"}
    for name in backends.BACKENDS:
        made = backends.get(name).environment(base)
        assert "OMP_NUM_THREADS" not in made
        assert "hf_secret" not in made.values()
        assert (made["PATH"], made["HF_HUB_OFFLINE"], made["TOKENIZERS_PARALLELISM"]) == ("/bin", "1", "false")
    assert cpu.environment(base)["CUDA_VISIBLE_DEVICES"] == ""
    assert cuda.environment(base)["CUDA_VISIBLE_DEVICES"] == "1"


def test_get_and_detect(monkeypatch):
    for name in backends.BACKENDS:
        assert name == backends.get(name).NAME
    with pytest.raises(UnknownName) as caught:
        backends.get("cude")
    assert "cuda" in caught.value.hint
    monkeypatch.setattr(cuda, "detect", lambda: False)
    monkeypatch.setattr(metal, "detect", lambda: False)
    assert backends.detect() == "cpu"
    monkeypatch.setattr(cuda, "detect", lambda: True)
    assert backends.detect() == "cuda"


def test_engines_on_a_cpu_yield_their_cores_unless_the_operator_says_otherwise():
    assert cpu.environment({})["GOMP_SPINCOUNT"] == cpu.SPIN
    assert cpu.environment({"GOMP_SPINCOUNT": "7"})["GOMP_SPINCOUNT"] == "7"
