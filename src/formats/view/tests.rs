//! What each kind makes of its sources, and what it refuses. The judges are the tools that read such files.

use super::*;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const MAX: usize = 1 << 20;

struct Sources1(Vec<(SecretPath, Secret)>);

impl Sources1 {
    fn new<B: AsRef<[u8]>>(all: &[(&str, B)]) -> Self {
        let of =
            |(name, bytes): &(&str, B)| (SecretPath::parse(name).unwrap(), Secret::copy_of(bytes.as_ref()).unwrap());
        Sources1(all.iter().map(of).collect())
    }

    fn parts(&self) -> Vec<Part<'_>> {
        self.0.iter().map(|(name, content)| Part { name, content }).collect()
    }
}

fn define(kind: &str, args: &[&str]) -> Definition {
    Definition::parse(kind, &args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), None).unwrap()
}

fn template(text: &str) -> Result<Definition, ViewError> {
    Definition::parse("template", &[], Some(text))
}

fn compose<B: AsRef<[u8]>>(definition: &Definition, sources: &[(&str, B)]) -> Result<Vec<u8>, ViewError> {
    Ok(definition.compose(&Sources1::new(sources).parts(), MAX)?.expose().to_vec())
}

fn rendered<B: AsRef<[u8]>>(text: &str, sources: &[(&str, B)]) -> Result<String, ViewError> {
    compose(&template(text)?, sources).map(|bytes| String::from_utf8(bytes).unwrap())
}

fn run(dir: &Path, script: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("sh")
        .args(["-ec", script])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// A key and its certificate, made by openssl; `new` is what says which.
fn made(dir: &Path, new: &str) -> (Vec<u8>, Vec<u8>) {
    let script = format!(
        "openssl req -x509 -newkey {new} -nodes -days 30 -subj '/C=CH/O=  Lab   Ä/CN=lab.example' \
         -addext subjectAltName=DNS:lab.example,IP:127.0.0.1 -utf8 -keyout k -out c"
    );
    run(dir, &script, b"");
    (std::fs::read(dir.join("k")).unwrap(), std::fs::read(dir.join("c")).unwrap())
}

const EC256: &str = "ec -pkeyopt ec_paramgen_curve:P-256";

#[test]
fn definitions_name_what_is_wrong_with_them() {
    for (kind, args) in [
        ("pem", &["a"][..]),
        ("concat", &[]),
        ("pin389", &[]),
        ("pin389", &["a", "To:ken"]),
        ("authorized-keys", &[]),
        ("hashdir", &["a", "b"]),
        ("hashdir", &["/a"]),
        ("pkcs12", &["k", "c"]),
        ("pkcs12", &["k", "c", "x", "y", "p"]),
        ("concat", &["../a"]),
        ("concat", &["/"]),
        ("other", &["a"]),
    ] {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        assert!(matches!(Definition::parse(kind, &args, None), Err(ViewError::Definition(_))), "{kind} {args:?}");
    }
    assert!(Definition::parse("concat", &["a".into()], Some("text")).is_err());
    let shown = define("pkcs12", &["k", "c", "x", "p"]).to_string();
    assert_eq!(shown, "pkcs12 k c x p");
    assert_eq!(define("hashdir", &["tls/*.pem"]).to_string(), "hashdir 'tls/*.pem'");
    assert!(define("hashdir", &["tls/*.pem"]).reads(&SecretPath::parse("tls/a.pem").unwrap()));
}

#[test]
fn a_definition_comes_back_from_its_record() {
    for definition in [
        define("pem", &["k", "c"]),
        define("pkcs12", &["k", "c", "p"]),
        define("hashdir", &["ca/**"]),
        template("{{ secret('a') }}").unwrap(),
        Definition::Hashed { source: SecretPath::parse("a").unwrap(), digest: [7; 32] },
    ] {
        let bytes = postcard::to_stdvec(&definition).unwrap();
        let back: Definition = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(format!("{back:?}"), format!("{definition:?}"));
    }
}

#[test]
fn concat_is_byte_for_byte_and_bounded() {
    let concat = define("concat", &["a", "b"]);
    let sources = Sources1::new(&[("a", &b"\0x"[..]), ("b", b"y")]);
    assert_eq!(concat.compose(&sources.parts(), 3).unwrap().expose(), b"\0xy");
    assert_eq!(concat.compose(&sources.parts(), 2).unwrap_err(), ViewError::TooBig { max: 2 });
}

#[test]
fn pin389_is_one_line() {
    let pin = define("pin389", &["pin"]);
    assert_eq!(compose(&pin, &[("pin", "4711\r\n")]).unwrap(), b"Internal (Software) Token:4711\n");
    assert_eq!(compose(&define("pin389", &["pin", "HSM"]), &[("pin", "x")]).unwrap(), b"HSM:x\n");
    for bad in ["", "\n", "a\nb", "a\0"] {
        assert!(matches!(compose(&pin, &[("pin", bad)]), Err(ViewError::Content { .. })), "{bad:?}");
    }
}

#[test]
fn authorized_keys_have_public_keys_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "ssh-keygen -q -t ed25519 -N '' -f a; ssh-keygen -q -t rsa -b 2048 -N '' -f b", b"");
    let (a, b) = (std::fs::read(dir.path().join("a.pub")).unwrap(), std::fs::read(dir.path().join("b.pub")).unwrap());
    let private = std::fs::read(dir.path().join("a")).unwrap();
    let keys = define("authorized-keys", &["ssh/*.pub"]);
    let with_options = [b"# a comment\n\ncommand=\"echo a b\",no-pty ", &a[..a.len() - 1]].concat();
    let out = compose(&keys, &[("ssh/a.pub", &with_options), ("ssh/b.pub", &b)]).unwrap();
    assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 2);
    let listed = run(dir.path(), "cat > all && ssh-keygen -l -f all | wc -l", &out);
    assert_eq!(String::from_utf8(listed).unwrap().trim(), "2");
    assert!(matches!(compose(&keys, &[("ssh/a", &private)]), Err(ViewError::Content { .. })));
    assert!(compose(&keys, &[("ssh/a", "ssh-ed25519 AAAA")]).is_err());
}

#[test]
fn a_pem_has_a_key_and_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let pem = define("pem", &["key", "cert"]);
    for new in
        ["rsa:2048", EC256, "ec -pkeyopt ec_paramgen_curve:P-384", "ec -pkeyopt ec_paramgen_curve:P-521", "ed25519"]
    {
        let (key, cert) = made(dir.path(), new);
        let (other, _) = made(dir.path(), new);
        let out = compose(&pem, &[("key", &key), ("cert", &cert)]).unwrap();
        let script =
            "cat > both; openssl pkey -in both -pubout > p1; openssl x509 -in both -noout -pubkey > p2; cmp p1 p2";
        run(dir.path(), script, &out);
        assert_eq!(compose(&pem, &[("key", &other), ("cert", &cert)]).unwrap_err(), ViewError::Mismatch, "{new}");
        // The older encodings of the same keys.
        if new != "ed25519" {
            let old = run(dir.path(), "cat > k; openssl pkey -in k -traditional", &key);
            assert!(compose(&pem, &[("key", &old), ("cert", &cert)]).is_ok(), "{new}");
            let old = run(dir.path(), "cat > k; openssl pkey -in k -traditional", &other);
            assert_eq!(compose(&pem, &[("key", &old), ("cert", &cert)]).unwrap_err(), ViewError::Mismatch, "{new}");
        }
    }
    let (key, cert) = made(dir.path(), EC256);
    assert_eq!(
        compose(&pem, &[("key", &key), ("cert", &key)]).err().map(|e| e.to_string()).unwrap(),
        "'cert' brings a second private key"
    );
    assert_eq!(compose(&pem, &[("a", &cert), ("b", &cert)]).unwrap_err(), ViewError::Missing("a private key".into()));
    assert_eq!(compose(&pem, &[("a", &key), ("b", &b"x".to_vec())]).unwrap_err().to_string(), "'b' is not PEM");
    let cut = &cert[..cert.len() - 10];
    assert!(compose(&pem, &[("a", &key[..]), ("b", cut)]).is_err());
}

#[test]
fn a_public_key_that_the_file_leaves_out_is_computed() {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = made(dir.path(), EC256);
    let bare = run(dir.path(), "cat > k; openssl ec -in k -no_public 2>/dev/null", &key);
    let pem = define("pem", &["key", "cert"]);
    assert!(compose(&pem, &[("key", &bare), ("cert", &cert)]).is_ok());
    let (other, _) = made(dir.path(), EC256);
    let bare = run(dir.path(), "cat > k; openssl ec -in k -no_public 2>/dev/null", &other);
    assert_eq!(compose(&pem, &[("key", &bare), ("cert", &cert)]).unwrap_err(), ViewError::Mismatch);
}

#[test]
fn pkcs12_is_read_back_by_openssl() {
    let dir = tempfile::tempdir().unwrap();
    for new in ["rsa:2048", EC256, "ed25519"] {
        let (key, cert) = made(dir.path(), new);
        let (_, ca) = made(dir.path(), EC256);
        let p12 = define("pkcs12", &["key", "cert", "chain", "password"]);
        let password = b"s3cret \"x\"\n".to_vec();
        let sources = [("key", &key), ("cert", &cert), ("chain", &ca), ("password", &password)];
        let out = compose(&p12, &sources).unwrap();
        assert_eq!(out.len(), compose(&p12, &sources).unwrap().len(), "its size does not depend on the salt");
        std::fs::write(dir.path().join("pw"), "s3cret \"x\"").unwrap();
        run(dir.path(), "cat > x.p12; openssl pkcs12 -in x.p12 -passin file:pw -nodes -out all.pem", &out);
        std::fs::write(dir.path().join("key"), &key).unwrap();
        let same = "openssl pkey -in all.pem > a; openssl pkey -in key > b; cmp a b; grep -c 'BEGIN CERT' all.pem";
        assert_eq!(run(dir.path(), same, b""), b"2\n");
        if new != "ed25519" {
            let old = run(dir.path(), "openssl pkey -in key -traditional", b"");
            let out = compose(&p12, &[("key", &old), sources[1], sources[2], sources[3]]).unwrap();
            run(
                dir.path(),
                &format!("cat > x.p12; openssl pkcs12 -in x.p12 -passin file:pw -nodes -out all.pem; {same}"),
                &out,
            );
        }
        let encrypted = run(dir.path(), "openssl pkey -in key -aes256 -passout pass:x", b"");
        assert!(compose(&p12, &[("key", &encrypted), sources[1], sources[2], sources[3]]).is_err());
        assert!(compose(&p12, &[sources[0], sources[1], sources[2], ("password", &b"\n".to_vec())]).is_err());
    }
}

#[test]
fn hash_names_are_those_of_openssl() {
    let dir = tempfile::tempdir().unwrap();
    let mut files: Vec<_> = std::fs::read_dir("/etc/ssl/certs").unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "pem"));
    assert!(files.len() > 50, "no system certificates to compare with");
    files.sort();
    let contents: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    let (_, odd) = made(dir.path(), EC256);
    let contents: Vec<Vec<u8>> = contents.into_iter().chain([odd.clone()]).collect();
    std::fs::write(dir.path().join("odd.pem"), &odd).unwrap();
    let script = "for f; do openssl x509 -in \"$f\" -noout -hash; done";
    let out = Command::new("sh")
        .args(["-c", script, "sh"])
        .args(files.iter().map(|f| f.as_os_str().to_owned()).chain([dir.path().join("odd.pem").into_os_string()]))
        .output()
        .unwrap();
    let mut theirs: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
    let names: Vec<String> = (0..contents.len()).map(|i| format!("ca/{i:04}.pem")).collect();
    let sources: Vec<(&str, &Vec<u8>)> = names.iter().map(String::as_str).zip(&contents).collect();
    let sources = Sources1::new(&sources);
    let ours = hashed(&sources.parts());
    let mut stems: Vec<String> = ours.iter().map(|h| h.name.split_once('.').unwrap().0.to_owned()).collect();
    theirs.sort();
    stems.sort();
    assert_eq!(stems, theirs);
    // And each entry is that certificate.
    for entry in ours.iter().take(20) {
        let source = sources.parts()[entry.part].name.clone();
        let definition = Definition::Hashed { source, digest: entry.digest };
        let pem = definition.compose(&[sources.parts()[entry.part]], MAX).unwrap();
        let hash = run(dir.path(), "openssl x509 -noout -hash", pem.expose());
        assert_eq!(String::from_utf8(hash).unwrap().trim(), entry.name.split_once('.').unwrap().0);
    }
}

#[test]
fn collisions_count_up_crls_have_an_r_and_what_is_neither_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (_, a) = made(dir.path(), EC256);
    let (_, b) = made(dir.path(), EC256);
    let crl = include_bytes!("../enrol/fixtures/crl.pem").to_vec();
    let der = run(dir.path(), "openssl x509 -outform DER", &b);
    let all =
        Sources1::new(&[("a", &a), ("b", &[&b[..], &a[..]].concat()), ("c", &crl), ("d", &der), ("e", &b"x".to_vec())]);
    let entries = hashed(&all.parts());
    let names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    let hash = String::from_utf8(run(dir.path(), "openssl x509 -noout -hash", &a)).unwrap();
    let crl_hash = String::from_utf8(run(dir.path(), "openssl crl -noout -hash", &crl)).unwrap();
    let mut expected =
        vec![format!("{}.0", hash.trim()), format!("{}.1", hash.trim()), format!("{}.r0", crl_hash.trim())];
    expected.sort();
    assert_eq!(names, expected);
    let gone = Definition::Hashed { source: SecretPath::parse("a").unwrap(), digest: [0; 32] };
    assert!(matches!(gone.compose(&all.parts()[..1], MAX), Err(ViewError::Content { .. })));
}

#[test]
fn a_template_reads_what_it_names_and_nothing_else() {
    let text = "{# secret('no') #}{% raw %}{{ secret('raw') }}{% endraw %}\n\
                {% if true %}u={{ secret( \"nut/user\" ) }} p={{secret('nut//pw')|trim }}{% endif %}\n{{ {'a': {'b': secret('x')}} }}";
    let definition = template(text).unwrap();
    let names = definition.with_sources(|s| match s {
        Sources::Named(names) => names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        Sources::Matching(_) => panic!("it has no pattern"),
    });
    assert_eq!(names, ["nut/user", "nut/pw", "x"]);
    let sources = [("nut/user", "monuser\n"), ("nut/pw", " hunter2 \n"), ("x", "y")];
    let out = String::from_utf8(compose(&definition, &sources).unwrap()).unwrap();
    assert!(out.starts_with("{{ secret('raw') }}\nu=monuser p=hunter2\n"), "{out}");
    for (line, bad) in [
        (1, "{{ secret(name) }}"),
        (2, "\n{{ secret('a' ~ 'b') }}"),
        (1, "{{ secret }}"),
        (1, "{% set f = secret %}{{ f('a') }}"),
        (1, "{{ secret('a\\x62') }}"),
        (1, "{{ secret('../a') }}"),
        (3, "\n\n{{ 1 + }}"),
        (2, "a\n{% include 'x' %}"),
        (1, "{{ 'a'|nosuchfilter }}"),
    ] {
        match template(bad) {
            Err(ViewError::Template { line: found, .. }) => assert_eq!(found, line, "{bad}"),
            // Filters are looked up when it runs.
            Ok(definition) => {
                let error = definition.compose(&[], MAX).unwrap_err();
                assert!(matches!(error, ViewError::Template { line: found, .. } if found == line), "{bad}: {error}");
            }
            Err(other) => panic!("{bad}: {other}"),
        }
    }
}

#[test]
fn a_template_that_fails_says_the_line_and_no_content() {
    let sources = [("a", "hunter2")];
    for bad in [
        "{{ secret('a')|int }}",
        "{{ secret('a').nothing }}",
        "{{ nothing }}",
        "{{ secret('a') + 1 }}",
        "{{ cert('a').subject }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}",
        "{{ debug() }}",
    ] {
        let error = rendered(&format!("x\n{bad}"), &sources).unwrap_err();
        assert!(matches!(error, ViewError::Template { line: 2, .. } | ViewError::TooBig { .. }), "{bad}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let error = rendered("{{ bytes('b') }}", &[("b", &[0xff, 0xfe][..])]).unwrap_err();
    assert!(error.to_string().contains("base64"), "{error}");
    assert_eq!(rendered("{{ bytes('b')|base64 }}", &[("b", &[0xff, 0xfe][..])]).unwrap(), "//4=");
    let big = template("{% for i in range(1000) %}0123456789{% endfor %}").unwrap();
    assert_eq!(big.compose(&[], 5000).unwrap_err(), ViewError::TooBig { max: 5000 });
}

/// Values and output of a template are bounded: one step of the engine can ask for a gigabyte.
#[test]
fn no_step_of_a_template_makes_more_than_a_secret_may_be() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "view::tests::templates_that_ask_for_much_memory", "--ignored"])
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && out.contains("1 passed"), "{out}{}", String::from_utf8_lossy(&child.stderr));
}

#[test]
#[ignore = "run by the test above, in a process of its own: what other tests take is not counted"]
fn templates_that_ask_for_much_memory() {
    let mut bombs = vec![
        "{{ 'x'|indent(900000000) }}".to_owned(),
        "{{ 'x'|indent(257) }}".into(),
        "{{ '%1000000000s'|format('x') }}".into(),
        "{{ '%.1000000000f'|format(1.5) }}".into(),
        "{{ '%*s'|format(1000000000, 'x') }}".into(),
        "{{ ('x' * 100000000)|length }}".into(),
        "{{ ([1] * 1000000000)|list|length }}".into(),
        "{{ [1, 2]|batch(1000000000, 'x')|list }}".into(),
        "{{ [1, 2]|slice(1000000000)|list }}".into(),
        "{{ range(100000)|join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx')|length }}".into(),
        "{% set a %}{% for i in range(100000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endset %}{{ a|length }}"
            .into(),
        "{% filter length %}{% for i in range(100000) %}xxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfilter %}".into(),
        "{% for a in ['xx'] recursive %}{{ loop([a ~ a]) }}{% endfor %}".into(),
    ];
    // Doubling in statements, in nested loops, and by a filter; each twice beyond what fits.
    bombs.push("{% set a = 'xxxxxxxx' %}".to_owned() + &"{% set a = a ~ a %}".repeat(30) + "{{ a|length }}");
    bombs.push("{% set a = ['x'] %}".to_owned() + &"{% set a = a + a %}".repeat(30) + "{{ a|length }}");
    bombs.push(
        "{% set a = 'xxxxxxxx' %}".to_owned() + &"{% set a = a|replace('x', 'xx') %}".repeat(30) + "{{ a|length }}",
    );
    bombs.push(
        "{% for a in ['xxxxxxxx'] %}".to_owned()
            + &"{% for a in [a ~ a] %}".repeat(30)
            + "{{ a|length }}"
            + &"{% endfor %}".repeat(31),
    );
    bombs.push("{{ 'xxxxxxxx'".to_owned() + &"|replace('x', 'xx')".repeat(30) + "|length }}");
    let before = peak();
    for bomb in &bombs {
        let error = rendered::<&str>(bomb, &[]).expect_err(bomb);
        assert!(matches!(error, ViewError::Template { line: 1, .. } | ViewError::TooBig { .. }), "{bomb}: {error}");
    }
    assert!(peak() - before < 64 << 10, "{} KiB", peak() - before);
}

/// The most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn what_templates_need_goes_on_working() {
    let sources = [("a", "one\ntwo\n")];
    for (text, wanted) in [
        ("{% for l in secret('a')|lines %}{{ l|upper }};{% endfor %}", "ONE;TWO;"),
        ("{{ secret('a')|indent(4) }}", "one\n    two"),
        ("{{ secret('a')|replace('o', '0')|split('\n')|join('+') }}", "0ne+tw0"),
        ("{% set a, b = 1, 'x' %}{{ b ~ a }}{{ '%5s|%05d'|format(b, a) }}", "x1    x|00001"),
        ("{%- set m = {'k': 'v'} -%}{% for k, v in m|items if k == 'k' %}{{ k }}={{ v }}{% endfor %}", "k=v"),
        ("{{ [3, 1, 2]|sort|map('string')|join(',') }} {{ ['a', 'b']|first }} port 65535", "1,2,3 a port 65535"),
    ] {
        assert_eq!(rendered(text, &sources).unwrap(), wanted, "{text}");
    }
}

#[test]
fn quoting_is_read_back_by_what_it_is_for() {
    let dir = tempfile::tempdir().unwrap();
    for odd in ["plain", "it's", "a b\"c\\d$e`f;#", "ümlaut = x", "%s", "-n", "'\"'\"", "\\", "x # y ; z"] {
        let sources = [("a", odd)];
        let script = rendered("printf %s {{ secret('a')|shell }}", &sources).unwrap();
        assert_eq!(run(dir.path(), &script, b""), odd.as_bytes(), "{script}");
        let ini = rendered("[s]\nkey = {{ secret('a')|ini }}\n", &sources).unwrap();
        std::fs::write(dir.path().join("x.ini"), &ini).unwrap();
        let read = run(dir.path(), "git config -f x.ini s.key", b"");
        assert_eq!(read.strip_suffix(b"\n").unwrap(), odd.as_bytes(), "{ini}");
        let json = rendered("{{ secret('a')|json }}", &sources).unwrap();
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), odd);
        let base64 = rendered("{{ secret('a')|base64 }}", &sources).unwrap();
        assert_eq!(run(dir.path(), "base64 -d", base64.as_bytes()), odd.as_bytes());
    }
    let lines = rendered("printf %s {{ bytes('a')|shell }}", &[("a", "a\nb\n")]).unwrap();
    assert_eq!(run(dir.path(), &lines, b""), b"a\nb\n");
    assert_eq!(rendered("{{ secret('a')|nut }}", &[("a", "a\"b\\c # d")]).unwrap(), r#""a\"b\\c \# d""#);
    assert!(rendered("{{ secret('a')|nut }}", &[("a", "ümlaut")]).is_err());
    assert!(rendered("{{ bytes('a')|ini }}", &[("a", "a\nb")]).is_err());
}

#[test]
fn a_template_knows_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (_, cert) = made(dir.path(), EC256);
    let text = "{{ cert('c').not_after }} {{ cert('c').names|join(',') }} {{ cert('c').hash }} {{ cert('c').sha256 }}";
    let out = rendered(text, &[("c", &cert)]).unwrap();
    let script = "cat > c; date -u -d \"$(openssl x509 -in c -noout -enddate | cut -d= -f2)\" +%Y-%m-%dT%H:%M:%SZ; \
                  openssl x509 -in c -noout -hash; openssl x509 -in c -outform DER | sha256sum | cut -d' ' -f1";
    let theirs = String::from_utf8(run(dir.path(), script, &cert)).unwrap();
    let theirs: Vec<&str> = theirs.lines().collect();
    assert_eq!(out, format!("{} lab.example,127.0.0.1 {} {}", theirs[0], theirs[1], theirs[2]));
}

#[test]
fn nothing_malformed_panics() {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = made(dir.path(), EC256);
    let kinds = [define("pem", &["k", "c"]), define("pkcs12", &["k", "c", "p"]), define("authorized-keys", &["**"])];
    let pw = b"x".to_vec();
    for cut in (0..cert.len()).step_by(7) {
        for kind in &kinds {
            let _ = compose(kind, &[("k", &key), ("c", &cert[..cut].to_vec()), ("p", &pw)]);
            let _ = compose(kind, &[("k", &key[..cut.min(key.len())].to_vec()), ("c", &cert), ("p", &pw)]);
        }
        let mut spoilt = cert.clone();
        spoilt[cut] ^= 1;
        let all = Sources1::new(&[("c", &spoilt)]);
        let _ = hashed(&all.parts());
    }
}
