"""Started by the kernel to make a key, as pinfold upcall is: lie.py SOCKET CLAIMS OUT KEY. Asks for what CLAIMS (a JSON list of changes to the
true request) says, and writes the answers to OUT. The key is never made."""
import json, re, socket, subprocess, sys

path, claims, out, key = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
true = {"key": key}
for line in open("/proc/keys", errors="replace"):
    if m := re.match(r"([0-9a-f]{8}) .* \.request_ key:([0-9a-f]+) pid:(\d+) ", line):
        if int(m[2], 16) == key:
            true |= {"auth": int(m[1], 16), "tid": int(m[3])}
# Who makes a key may see it.
described = subprocess.run(["keyctl", "rdescribe", str(key)], capture_output=True, text=True).stdout.strip()
true["path"] = described.split(";pinfold:", 1)[-1]
answers = []
for claim in json.load(open(claims)):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(3)
    s.connect(path)
    s.sendall(json.dumps({"method": "org.pinfold.KeyRequest", "parameters": true | claim}).encode() + b"\0")
    answers.append(s.recv(65536).rstrip(b"\0").decode())
with open(out, "w") as file:
    json.dump(answers, file)
