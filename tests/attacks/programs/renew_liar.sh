#!/bin/sh
# A renewal program (docs/certificates.md) that does what its mode, in the file "mode" beside it, says: everything but what it
# is asked for. A request comes on its standard input, the certificate is to go to its standard output.
here=${0%/*}
cd "$here" || exit 9
mode=$(cat mode)
sign() { openssl x509 -req -CA ca.crt -CAkey ca.key -set_serial 99 -days 60 "$@" 2>/dev/null; }
case $mode in
hangs) trap '' TERM HUP; sleep 1000 & echo $! > pids; echo $$ >> pids; wait; sleep 1000 ;;
stops) echo $$ > pids; kill -STOP $$ ;;
deaf) exec <&-; exit 0 ;;
floods-out) exec yes 'MIIBszCCAVmgAwIBAgIUQ' ;;
floods-err) yes 'no route to the authority' >&2 ;;
floods-then-answers) head -c 3000000 /dev/zero; sign -copy_extensions copy ;;
forks) setsid sleep 100 & echo $! > pids; exit 0 ;;
kills-caller) kill -9 "$PPID"; sleep 1; exit 1 ;;
escapes) printf 'failed: \033[2J\033]0;owned\007\n' >&2; exit 1 ;;
other-key) openssl req -x509 -newkey ed25519 -nodes -days 60 -subj /CN=web -keyout /dev/null 2>/dev/null ;;
other-host) cat other.crt ;;
in-use) cat web.crt ;;
authority) cat ca.crt ;;
key-too) cat ca.key ;;
no-names) sign ;;
other-names) printf 'subjectAltName=DNS:evil.example.org' > ext; sign -extfile ext ;;
many) i=0; sign -copy_extensions copy > one; while [ $i -lt 900 ]; do openssl x509 -in one; i=$((i + 1)); done | head -c 900000 ;;
broken) sign -copy_extensions copy | sed '3s/./A/g' ;;
ended) openssl x509 -req -CA ca.crt -CAkey ca.key -set_serial 99 -days 0 -copy_extensions copy 2>/dev/null ;;
honest) sign -copy_extensions copy ;;
*) exit 8 ;;
esac
