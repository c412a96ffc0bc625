/* An independent measurement of three exits, to hold nestctl's figures against: CPUID, a hypercall, and a port that
 * user space handles. It shares no code with nestctl. The machine has the same shape (a local APIC in the kernel, a
 * port at the end), for KVM does more or less for another one.
 *
 * Usage: exits TARGET_MS SAMPLES. Prints one line for each sample: NAME OPERATIONS NANOSECONDS.
 */
#include <cpuid.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#define END_PORT 0xf4

/* Each loop: the instruction, dec edi, jnz; then out END_PORT, al. The prefix 66 makes 16-bit code count 32 bits. */
static const uint8_t cpuid_code[] = {0x66, 0x31, 0xc0, 0x0f, 0xa2, 0x66, 0x4f, 0x75, 0xf7, 0xe6, END_PORT};
static const uint8_t vmcall_code[] = {0x0f, 0x01, 0xc1, 0x66, 0x4f, 0x75, 0xf9, 0xe6, END_PORT};
static const uint8_t vmmcall_code[] = {0x0f, 0x01, 0xd9, 0x66, 0x4f, 0x75, 0xf9, 0xe6, END_PORT};
static const uint8_t port_code[] = {0xee, 0x66, 0x4f, 0x75, 0xfb, 0xe6, END_PORT};

static int vcpu;
static uint8_t *memory;
static struct kvm_run *run;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void *map(size_t size, int fd)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at == MAP_FAILED)
        fail("mmap");
    return at;
}

static void open_guest(void)
{
    struct kvm_userspace_memory_region region = {.memory_size = 0x4000};
    struct kvm_enable_cap apic = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 512 * sizeof(struct kvm_cpuid_entry2));
    struct kvm_sregs sregs;
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm;

    if (kvm < 0)
        fail("/dev/kvm");
    if ((vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0)
        fail("KVM_CREATE_VM");
    if (ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000))
        fail("KVM_SET_TSS_ADDR");
    if (ioctl(vm, KVM_ENABLE_CAP, &apic))
        fail("KVM_CAP_SPLIT_IRQCHIP");
    memory = map(region.memory_size, -1);
    region.userspace_addr = (uintptr_t)memory;
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
        fail("KVM_SET_USER_MEMORY_REGION");
    if ((vcpu = ioctl(vm, KVM_CREATE_VCPU, 0)) < 0)
        fail("KVM_CREATE_VCPU");
    run = map(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), vcpu);
    cpuid->nent = 512;
    if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) || ioctl(vcpu, KVM_SET_CPUID2, cpuid))
        fail("cpuid");
    if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
        fail("KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs))
        fail("KVM_SET_SREGS");
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* Run `count` turns and return the nanoseconds; an exit to user space for each is part of the work of the port. */
static uint64_t time_turns(const uint8_t *code, size_t size, uint32_t count)
{
    struct kvm_regs regs = {.rip = 0x2000, .rflags = 2, .rdi = count, .rdx = 0x1234};
    uint64_t begin;

    memcpy(memory + 0x2000, code, size);
    if (ioctl(vcpu, KVM_SET_REGS, &regs))
        fail("KVM_SET_REGS");
    begin = now_ns();
    do {
        if (ioctl(vcpu, KVM_RUN, 0))
            fail("KVM_RUN");
    } while (run->exit_reason == KVM_EXIT_IO && run->io.port != END_PORT);
    if (run->exit_reason != KVM_EXIT_IO) {
        fprintf(stderr, "exit reason %u\n", run->exit_reason);
        exit(1);
    }
    return now_ns() - begin;
}

static void measure(const char *name, const uint8_t *code, size_t size, uint64_t target_ns, int samples)
{
    uint32_t count = 1;
    uint64_t taken, again;

    /* The shorter of two: in one of them something else may have had the CPU. */
    for (;; count *= 2) {
        taken = time_turns(code, size, count);
        again = time_turns(code, size, count);
        if (again < taken)
            taken = again;
        if (taken >= target_ns / 4)
            break;
    }
    count = count * target_ns / taken + 1;
    time_turns(code, size, count); /* to warm up */
    while (samples--)
        printf("%s %u %llu\n", name, count, (unsigned long long)time_turns(code, size, count));
}

int main(int argc, char **argv)
{
    uint64_t target_ns = (argc > 1 ? atoi(argv[1]) : 50) * 1000000ull;
    int samples = argc > 2 ? atoi(argv[2]) : 3;
    unsigned eax, ebx = 0, ecx = 0, edx = 0;

    open_guest();
    __get_cpuid(0, &eax, &ebx, &ecx, &edx);
    measure("cpuid_exit", cpuid_code, sizeof(cpuid_code), target_ns, samples);
    if (ebx == signature_AMD_ebx)
        measure("hypercall_exit", vmmcall_code, sizeof(vmmcall_code), target_ns, samples);
    else
        measure("hypercall_exit", vmcall_code, sizeof(vmcall_code), target_ns, samples);
    measure("port_user_exit", port_code, sizeof(port_code), target_ns, samples);
    return 0;
}
