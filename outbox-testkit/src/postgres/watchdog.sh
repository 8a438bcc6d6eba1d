# Ends a throwaway cluster with the process that owns it, however that ends.
# $1 is the cluster's directory. Standard input is a pipe whose only writer is the owner, and the
# owner never writes: the read returns when the owner closes it, or when the kernel does.
trap '' HUP INT TERM
while read -r line; do :; done

postmaster=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$postmaster" ]; then
    kill -QUIT "$postmaster" 2>/dev/null
    tries=0
    # The file is what Postgres removes last. The process may stay as a zombie that nobody reaps.
    while [ -e "$1/data/postmaster.pid" ] && kill -0 "$postmaster" 2>/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -eq 200 ]; then
            kill -KILL "$postmaster" 2>/dev/null
            break
        fi
        sleep 0.05
    done
fi

# An initdb that was under way may still write; its files go with the next try.
tries=0
while [ -e "$1" ] && [ "$tries" -lt 100 ]; do
    rm -rf -- "$1" 2>/dev/null || sleep 0.05
    tries=$((tries + 1))
done
