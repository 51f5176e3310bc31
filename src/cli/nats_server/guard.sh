# Runs a server for as long as standard input is open. Called as: sh -c THIS guard DIRECTORY COMMAND...
# The end of standard input, which also comes when whoever holds the other end is killed, ends the server, and then DIRECTORY
# is removed; a line on standard input before its end keeps the directory. Standard output has the server's process id in its
# first line and the server's log after it. Standard error is a lock file: held here and, as its standard input, by the
# server, it stays locked until both are gone.
directory=$1
shift
exec 3<&0 </dev/null
# The server's shell says who it is before the server can say anything.
sh -c 'echo "$$"; exec "$@"' server "$@" <&2 2>&1 3<&- &
server=$!
exec >/dev/null
while read -r _ <&3; do directory=; done
kill "$server" 2>/dev/null
tries=0
while [ "$tries" -lt 100 ] && kill -0 "$server" 2>/dev/null; do
    tries=$((tries + 1))
    sleep 0.1
done
kill -9 "$server" 2>/dev/null
wait "$server" 2>/dev/null
[ -z "$directory" ] || rm -rf "$directory"
