/* Hides instruction-set extensions from one process: the CPUID instruction is made to fault, and answered here.
 *
 * onnxruntime, numpy and others choose their kernels by CPUID. Linux lets a process make CPUID fault on x86 CPUs
 * that have "CPUID faulting" (arch_prctl, ARCH_SET_CPUID; the flag cpuid_fault); exec undoes it, so that each program
 * must load this library again (/etc/ld.so.preload). On other CPUs, -DPATCHED: the libraries that ask are copies in
 * which INT 0x81 stands in place of CPUID (patched.py). Hidden are VNNI, AMX, and what only newer CPUs have; with
 * -DHIDE_AVX512 also AVX-512.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

typedef int sigaction_function(int, const struct sigaction *, struct sigaction *);

static struct sigaction theirs; /* what the program itself wants to do about SIGSEGV */

static sigaction_function *real_sigaction(void) {
    static sigaction_function *found;
    if (!found) found = (sigaction_function *)dlsym(RTLD_NEXT, "sigaction");
    return found;
}

#ifdef PATCHED
static const uint8_t asks[2] = {0xcd, 0x81};
static int let_cpuid_run(int yes) { return (void)yes, 0; }
#else
static const uint8_t asks[2] = {0x0f, 0xa2};
static int let_cpuid_run(int yes) { return (int)syscall(SYS_arch_prctl, ARCH_SET_CPUID, yes); }
#endif

static void answer(ucontext_t *context) {
    greg_t *registers = context->uc_mcontext.gregs;
    uint32_t a = (uint32_t)registers[REG_RAX], b, c = (uint32_t)registers[REG_RCX], d;
    const uint32_t leaf = a, part = c;
    let_cpuid_run(1);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    let_cpuid_run(0);
    if (leaf == 7 && part == 0) {
        c &= ~BIT(11);                         /* AVX512-VNNI */
        d &= ~(BIT(22) | BIT(24) | BIT(25));   /* AMX: bf16, tile, int8 */
#ifdef HIDE_AVX512
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        c &= ~(BIT(1) | BIT(6) | BIT(12) | BIT(14));
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(23));
#endif
    }
    if (leaf == 7 && part == 1) {
        a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23)); /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
        d &= ~(BIT(4) | BIT(5) | BIT(10) | BIT(19)); /* AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16, AVX10 */
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

static void on_fault(int number, siginfo_t *info, void *context) {
    const uint8_t *instruction = (const uint8_t *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    /* A CPUID that faults is a general protection fault, which Linux reports as SI_KERNEL. */
    if (info->si_code == SI_KERNEL && instruction[0] == asks[0] && instruction[1] == asks[1]) {
        answer(context);
        return;
    }
    if (theirs.sa_flags & SA_SIGINFO) {
        theirs.sa_sigaction(number, info, context);
    } else if (theirs.sa_handler != SIG_DFL && theirs.sa_handler != SIG_IGN) {
        theirs.sa_handler(number);
    } else { /* die of it, as the program would have */
        struct sigaction usual = {.sa_handler = SIG_DFL};
        sigset_t only;
        real_sigaction()(SIGSEGV, &usual, NULL);
        sigemptyset(&only);
        sigaddset(&only, SIGSEGV);
        sigprocmask(SIG_UNBLOCK, &only, NULL);
        raise(SIGSEGV);
    }
}

/* The program's own handler of SIGSEGV (Python's faulthandler, say) comes second. */
int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    if (number != SIGSEGV) return real_sigaction()(number, new, old);
    if (old) *old = theirs;
    if (new) theirs = *new;
    return 0;
}

sighandler_t signal(int number, sighandler_t handler) {
    struct sigaction new = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
    return sigaction(number, &new, &old) ? SIG_ERR : old.sa_handler;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    real_sigaction()(SIGSEGV, &ours, NULL);
    if (let_cpuid_run(0)) {
        perror("this CPU or kernel does not let CPUID fault");
        abort();
    }
}
