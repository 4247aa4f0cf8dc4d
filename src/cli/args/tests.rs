//! Lines of the manual, and mistakes.

use super::secrets::octal;
use super::*;
use clap::CommandFactory;

fn parse(line: &str) -> Result<Command, ErrorKind> {
    Cli::try_parse_from(line.split(' ')).map(|c| c.command).map_err(|e| e.kind())
}

#[test]
fn the_grammar_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_manual_parses() {
    for line in [
        "pinfold init --recovery age1x",
        "pinfold init --passphrase-file - --recovery-out /r",
        "pinfold init --keyfile /k --recovery-out /r --json",
        "pinfold mount",
        "pinfold mount /mnt --config /c",
        "pinfold --config /c unlock",
        "pinfold unlock --recovery /r",
        "pinfold lock",
        "pinfold status --json",
        "pinfold ls",
        "pinfold ls -l svc/pin",
        "pinfold ls -lR --json",
        "pinfold put svc/pin -o nobody -g adm -m 0640",
        "pinfold put -p svc/pin",
        "pinfold cat --reveal svc/pin",
        "pinfold rm svc/pin",
        "pinfold rm --purge -r svc other",
        "pinfold history svc/pin --json",
        "pinfold rollback svc/pin 3",
        "pinfold who svc/pin",
        "pinfold log",
        "pinfold log -f --json",
        "pinfold log --verify",
        "pinfold log rotate",
        "pinfold recovery add age1x",
        "pinfold recovery add age1x --only",
        "pinfold recovery escrow",
        "pinfold recovery rm age1x",
        "pinfold recovery ls --json",
        "pinfold fsck",
        "pinfold fsck --extract svc/pin --recovery /r",
        "pinfold backup /b",
        "pinfold restore - --keyfile /k",
        "pinfold check-config",
        "pinfold scope add web",
        "pinfold scope add web --write --uid-map host",
        "pinfold scope ls --json",
        "pinfold scope rm web --purge",
        "pinfold attach web --pid 4711",
        "pinfold attach web --pid 4711 --id web-1 --timeout 12h",
        "pinfold detach web-1",
        "pinfold instances --json",
        "pinfold oci-hook createRuntime",
        "pinfold oci-hook poststop",
        "pinfold policy check",
        "pinfold policy check /p --json",
        "pinfold policy show --json --host h1 /p",
        "pinfold policy show --user u1",
        "pinfold publish svc/pin --to dirsrv",
        "pinfold publish svc/pin --to 389:389 --instance a --container web --as 389ds --timeout 12h --json",
        "pinfold publish svc/pin --to nut --description pinfold:{name}",
        "pinfold condition svc/pin",
        "pinfold condition svc/pin --unit nginx.service --exe /usr/sbin/nginx --label nginx --expires 2027-01-31T12:00:00Z",
        "pinfold condition svc/pin --clear unit --clear label --on-change reload:nginx.service --json",
        "pinfold unpublish svc/pin",
        "pinfold unpublish svc/pin --to dirsrv --as 389ds",
        "pinfold published --json",
        "pinfold keyring ls --json",
        "pinfold doctor",
        "pinfold upcall 741038274",
        "pinfold ready",
        "pinfold ready --timeout 90s --hold",
        "pinfold passwd",
        "pinfold passwd --old-keyfile /k --passphrase-file -",
        "pinfold identity add clevis --clevis tang {} --old-passphrase-file /p",
        "pinfold identity add token --recipient age1x",
        "pinfold identity add token --plugin age1yubikey1x --out /f",
        "pinfold identity rm token",
        "pinfold identity ls --json",
        "pinfold rekey --old-passphrase-file /p --new-passphrase-file /q --drop-others",
        "pinfold rekey --new-keyfile /k --json",
        "pinfold join hq --signer /hq.pub --prefix site-a --host web1 --json",
        "pinfold join --list --json",
        "pinfold leave hq --keep",
        "pinfold leave hq --remove",
        "pinfold import /b.pfb --pretend",
        "pinfold import - --dry-run --partial --json",
        "pinfold import --inbox --watch",
        "pinfold accounts ls --json",
        "pinfold accounts apply --pretend",
        "pinfold cert request web --subject CN=web,O=E --san web.example.org --san 192.0.2.1 --key-type rsa-3072 --out /f",
        "pinfold cert request web --again --to sftp://ca@ca.example.org/in/",
        "pinfold cert accept - --host web --json",
        "pinfold cert import /d --passphrase-file /p --replace --dry-run",
        "pinfold cert ls web* --expiring 30d --json",
        "pinfold cert show certs/web --pem",
        "pinfold cert verify --ca /f",
        "pinfold cert selfsign web --days 90 --replace",
        "pinfold cert ca init lab --days 3650",
        "pinfold cert ca sign lab /f --days 30 --out /g",
        "pinfold cert ca crl lab --revoke 4f --revoke 50",
        "pinfold renew web --pretend --json",
        "pinfold renew --force",
        "pinfold password add root@ui-1",
        "pinfold password generate nut@ups:upsd --length 32 --alphabet clear --replace",
        "pinfold password show root@ui-*",
        "pinfold password ls",
        "pinfold password ls *@*:* --json",
        "pinfold password rm root@ui-* --purge --dry-run",
        "pinfold password rotate root@ui-* --length 32",
        "pinfold password rotate root@ui-* --resume --json",
        "pinfold password rotate ui-1 --keep old",
        "pinfold password import passtore - --pretend",
        "pinfold password import pass /p --replace",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
    }
}

#[test]
fn mistakes_are_usage_errors() {
    for line in [
        "pinfold init",
        "pinfold init --recovery age1x --recovery-out /r",
        "pinfold init --passphrase-file /p --keyfile /k --recovery age1x",
        "pinfold unlock --passphrase-file /p --keyfile /k",
        "pinfold unlock hunter2",
        "pinfold put",
        "pinfold put svc/pin -m 0888",
        "pinfold put svc/pin -m 4755",
        "pinfold put svc/pin hunter2",
        "pinfold rm",
        "pinfold rollback svc/pin",
        "pinfold rollback svc/pin latest",
        "pinfold log rotate --json",
        "pinfold log --verify -f",
        "pinfold fsck --version 3",
        "pinfold scope add web --uid-map both",
        "pinfold attach web",
        "pinfold attach web --pid 1 --timeout 0s",
        "pinfold attach web --pid 1 --timeout soon",
        "pinfold detach",
        "pinfold policy",
        "pinfold publish svc/pin",
        "pinfold publish svc/pin --to a --as 389ds --description x",
        "pinfold publish svc/pin --to a --timeout 0s",
        "pinfold publish svc/pin --to a --timeout soon",
        "pinfold keyring",
        "pinfold ready --timeout soon",
        "pinfold join hq",
        "pinfold join hq --list",
        "pinfold leave hq",
        "pinfold leave hq --keep --remove",
        "pinfold import",
        "pinfold import /b --inbox",
        "pinfold import /b --watch",
        "pinfold accounts",
        "pinfold cert",
        "pinfold cert request",
        "pinfold cert request ../web",
        "pinfold cert request web --key-type dsa",
        "pinfold cert ls --expiring soon",
        "pinfold cert selfsign web --days 0",
        "pinfold cert show certs/web --pem --json",
        "pinfold renew --now tomorrow",
        "pinfold password",
        "pinfold password add ui-1 hunter2",
        "pinfold password generate ui-1 --length 3",
        "pinfold password show",
        "pinfold password rotate ui-1 --resume --keep new",
        "pinfold password rotate ui-1 --keep both",
        "pinfold nothing",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).err().unwrap_or_else(|| panic!("{line} parsed"));
        assert_eq!(explain(&error), Exit::Usage, "{line}");
    }
    let help = Cli::try_parse_from(["pinfold", "--version"]).unwrap_err();
    assert_eq!(explain(&help), Exit::Ok);
}

#[test]
fn modes_are_octal() {
    assert_eq!(octal("0640"), Ok(0o640));
    assert_eq!(octal("400"), Ok(0o400));
    for bad in ["", "8", "1777", "u+r", "-1", "+1"] {
        assert!(octal(bad).is_err(), "{bad}");
    }
}
