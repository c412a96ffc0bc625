# Say as JSON what KVM's module has as 'nested', what it will get, and who uses it. Changes nothing. Any POSIX shell.
# Run by nested.yml and by 'nestctl nested'. Without root it does not see who uses the module.
drop_in=/etc/modprobe.d/nestctl.conf
clean() { tr -cd '[:print:]' | tr '"\\' '??'; }

module= state=absent value= refcnt=0
grep -qw vmx /proc/cpuinfo && module=kvm_intel
grep -qw svm /proc/cpuinfo && module=kvm_amd
# A kernel with everything built in has the other vendor's module, too; it serves nobody here.
for name in ${module:-kvm_intel kvm_amd}; do
    directory=/sys/module/$name
    [ -d "$directory" ] || continue
    # A module that is built into the kernel has no 'initstate'.
    module=$name state=builtin
    if [ -e "$directory/initstate" ]; then state=loaded refcnt=$(cat "$directory/refcnt"); fi
    if [ -e "$directory/parameters/nested" ]; then value=$(cat "$directory/parameters/nested"); fi
    break
done

# The kernel and modprobe take '-' and '_' for the same. Of several settings the last one counts. A name alone means 1.
dashed=$(echo "$module" | tr _ -)
boot=$(tr ' ' '\n' < /proc/cmdline | sed 's/\.nested$/.nested=1/' | sed -n "s/^\($module\|$dashed\)\.nested=//p" | tail -n 1 | clean)
configured=$(modprobe --showconfig 2> /dev/null | tr - _ | sed 's/ nested\( \|$\)/ nested=1\1/g' |
    sed -n "s/^options $module \(.* \)\{0,1\}nested=\([^ ]*\).*/\2/p" | tail -n 1 | clean)

files=
for file in /etc/modprobe.d/*.conf /run/modprobe.d/*.conf /usr/local/lib/modprobe.d/*.conf /lib/modprobe.d/*.conf; do
    [ -n "$module" ] && [ -r "$file" ] || continue
    said=$(sed 's/\([[:space:]]\)nested\([[:space:]]\|$\)/\1nested=1\2/g' "$file" |
        sed -n "s/^[[:space:]]*options[[:space:]]\{1,\}\($module\|$dashed\)[[:space:]]\(.*[[:space:]]\)\{0,1\}nested=\([^[:space:]]*\).*/\3/p" |
        tail -n 1 | clean)
    [ -z "$said" ] || files="$files${files:+, }{\"file\": \"$(echo "$file" | clean)\", \"value\": \"$said\"}"
done

users=
for pid in $(find /proc/[0-9]*/fd/ \( -lname /dev/kvm -o -lname 'anon_inode:kvm-vm' \) 2> /dev/null | cut -d / -f 3 | sort -un); do
    # QEMU's '-name guest=NAME,...' or '-name NAME'; another program by its own name.
    name=$(tr '\0' '\n' < "/proc/$pid/cmdline" 2> /dev/null | sed -n '/^-name$/{n;s/^guest=//;s/,.*//;p;q;}' | clean)
    [ -n "$name" ] || name=$(clean 2> /dev/null < "/proc/$pid/comm") || continue
    users="$users${users:+, }{\"pid\": $pid, \"name\": \"$name\"}"
done

[ "$(id -u)" = 0 ] && is_root=true || is_root=false
[ -e "$drop_in" ] && has_drop_in=true || has_drop_in=false
printf '{"module": "%s", "state": "%s", "value": "%s", "refcnt": %s, "configured": "%s", "boot": "%s", ' \
    "$module" "$state" "$value" "$refcnt" "$configured" "$boot"
printf '"files": [%s], "users": [%s], "is_root": %s, "has_drop_in": %s}\n' "$files" "$users" "$is_root" "$has_drop_in"
