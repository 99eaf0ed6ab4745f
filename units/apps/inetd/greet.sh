#!/bin/sh
# Reads a name and greets it; REMOTE_ADDR comes from aeternad.
printf 'Hello %s, who are you?\n' "${REMOTE_ADDR:-stranger}"
read -r name || exit 0
printf 'Welcome, %s.\n' "$name"
