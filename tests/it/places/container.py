# Runs a command under a filter of system calls: container.py PROFILE COMMAND… PROFILE is seccomp.json's form.
import ctypes, json, os, platform, struct, sys

profile = json.load(open(sys.argv[1]))
machine = {"x86_64": 0, "aarch64": 1}[platform.machine()]
arch = [0xC000003E, 0xC00000B7][machine]
EPERM, ENOSYS, EACCES = 1, 38, 13
LOAD, EQUAL, ANY, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def op(code, yes, no, value):
    return struct.pack("HBBI", code, yes, no, value)


code = [op(LOAD, 0, 0, 4), op(EQUAL, 1, 0, arch), op(RETURN, 0, 0, ALLOW), op(LOAD, 0, 0, 0)]
for calls, error in [(profile["refused"], EPERM), (profile["unknown"], ENOSYS)]:
    for number in calls.values():
        code += [op(EQUAL, 0, 1, number[machine]), op(RETURN, 0, 0, ERRNO | error)]
if "clone" in profile:
    code += [op(EQUAL, 0, 3, profile["clone"][machine]), op(LOAD, 0, 0, 16)]
    code += [op(ANY, 0, 1, profile["clone_flags"]), op(RETURN, 0, 0, ERRNO | EPERM)]
code += [op(RETURN, 0, 0, ALLOW)]
buffer = ctypes.create_string_buffer(b"".join(code))
program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
# Whoever has no CAP_SYS_ADMIN needs no_new_privs for it, as everybody in a container has it or not.
if libc.prctl(22, 2, program, 0, 0) != 0:
    assert ctypes.get_errno() == EACCES, os.strerror(ctypes.get_errno())
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[2], sys.argv[2:])
