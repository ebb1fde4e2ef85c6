#!/usr/bin/env bash
# A fleet on this host, to play with: an etcd of three, two coordinators, three agents, a source and a target.
#   deploy/examples/local-fleet.sh up|status|down     (in the root of the checkout; DIR, DTS, PORT may be given)
set -euo pipefail
DIR=${DIR:-local-fleet}; DTS=${DTS:-target/debug/dts}; PORT=${PORT:-7711}; ETCD=${ETCD:-.fleet/etcd/bin/etcd}
C1=127.0.0.1:$PORT; C2=127.0.0.1:$((PORT + 1)); SOURCE=$((PORT + 2)); TARGET=$((PORT + 3))
peer() { echo "http://127.0.0.1:$((PORT + 10 + $1))"; }
client() { echo "http://127.0.0.1:$((PORT + 20 + $1))"; }
run() { # name, command …: in the background, its number in $DIR/name.pid
  local name=$1; shift; mkdir -p "$DIR/$name"; "$@" >>"$DIR/$name.log" 2>&1 </dev/null & echo $! >"$DIR/$name.pid"; }
alive() { # What was killed and not yet buried does not run.
  [ -e "$DIR/$1.pid" ] && case "$(ps -o stat= -p "$(cat "$DIR/$1.pid")")" in ""|Z*) false;; esac; }
case ${1:-} in
up) # Starts what does not run: so it also brings back what was killed.
  mkdir -p "$DIR"; [ -e "$DIR/seal.key" ] || (umask 077; head -c 32 /dev/urandom >"$DIR/seal.key")
  members="m1=$(peer 1),m2=$(peer 2),m3=$(peer 3)"
  for i in 1 2 3; do alive "etcd-$i" || run "etcd-$i" "$ETCD" --name "m$i" --data-dir "$DIR/etcd-$i" --listen-client-urls "$(client $i)" --advertise-client-urls "$(client $i)" \
    --listen-peer-urls "$(peer $i)" --initial-advertise-peer-urls "$(peer $i)" --initial-cluster "$members" --log-level error; done
  alive source || run source redis-server --port "$SOURCE" --bind 127.0.0.1 --save "" --repl-diskless-sync-delay 0 --dir "$DIR/source"
  alive target || run target redis-server --port "$TARGET" --bind 127.0.0.1 --save "" --dir "$DIR/target"
  for i in 1 2; do alive "coordinator-$i" || run "coordinator-$i" "$DTS" coordinator --listen "127.0.0.1:$((PORT + i - 1))" --etcd "$(client 1),$(client 2),$(client 3)" --seal-key-file "$DIR/seal.key"; done
  for i in 1 2 3; do alive "agent-$i" || run "agent-$i" "$DTS" agent --name "agent-$i" --coordinator "http://$C1,http://$C2" --state-dir "$DIR/agent-$i"; done
  until "$DTS" fleet list --coordinator "$C1,$C2" >/dev/null 2>&1; do sleep 0.2; done
  echo "coordinators $C1,$C2; source redis://127.0.0.1:$SOURCE, target redis://127.0.0.1:$TARGET";;
status)
  for pid in "$DIR"/*.pid; do name=$(basename "$pid" .pid); echo "$name $(cat "$pid") $(alive "$name" && echo runs || echo gone)"; done;;
down) # Ends what it has started, by number.
  for pid in "$DIR"/*.pid; do [ -e "$pid" ] || continue; kill "$(cat "$pid")" 2>/dev/null || true; done
  for pid in "$DIR"/*.pid; do [ -e "$pid" ] || continue; while kill -0 "$(cat "$pid")" 2>/dev/null; do sleep 0.1; done; rm -f "$pid"; done;;
*) sed -n '2,3p' "$0"; exit 2;;
esac
