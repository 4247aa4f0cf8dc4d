#!/bin/sh
# A rotation program (docs/passwords.md) that does what the host's name says. What an account takes is in $FAR/HOST.
[ "$PINFOLD_HOST" = deaf ] && [ "$1" = change ] && exec true
IFS= read -r header; IFS= read -r one; IFS= read -r two
file=$FAR/$PINFOLD_HOST
change() { printf '%s\n' "$two" > "$file"; }
case $1:$PINFOLD_HOST in
change:hangs-after) change; trap '' TERM HUP; sleep 1000 & echo $! $$ > "$FAR/pids"; wait; sleep 1000 ;;
change:hangs-before) echo $$ > "$FAR/pids"; kill -STOP $$ ;;
verify:hangs-verifying) trap '' TERM HUP; while :; do sleep 1; done ;;
change:floods) change; yes "$two" | head -c 5000000; yes "$one" | head -c 5000000 >&2; exit 0 ;;
change:forks) change; setsid sleep 100 & echo $! > "$FAR/pids"; exit 0 ;;
change:tells) printf '\033]0;%s\007cannot set %s, it had %s\n' "$two" "$two" "$one" >&2; exit 1 ;;
change:other) printf '%s\n' "$two" > "$FAR/victim"; exit 0 ;;
change:nothing) exit 0 ;;
verify:yes-man) exit 0 ;;
change:yes-man) printf '%s\n' "$one" >> "$file.was"; exit 0 ;;
change:odd) kill -SEGV $$ ;;
change:*) change; exit 0 ;;
esac
IFS= read -r has < "$file"
[ "$has" = "$one" ]
