/*
 * pause holds a pod's namespaces. As process 1 of a shared PID namespace it
 * also reaps orphans. It ends on SIGTERM or SIGINT.
 *
 * Process 1 receives only signals that it handles or blocks; blocking them and
 * waiting needs no signal handler and no restorer.
 *
 * It confines itself to the system calls it makes. That is stricter than a
 * runtime's default profile, and free: a runtime spends longer on compiling
 * that profile than on all else it does for this process.
 */
#include "sys.h"

#define SIGINT 2
#define SIGTERM 15
#define SIGCHLD 17
#define SIG_BLOCK 0
#define WNOHANG 1
#define PR_SET_SECCOMP 22
#define PR_SET_NO_NEW_PRIVS 38
#define SECCOMP_MODE_FILTER 2
#define SECCOMP_RET_EPERM 0x00050001
#define SECCOMP_RET_ALLOW 0x7fff0000

/* One instruction of a classic BPF program. */
struct bpf {
	unsigned short code;
	unsigned char yes, no;
	unsigned int k;
};

#define LOAD(offset) { 0x20, 0, 0, offset }
#define IF_EQUAL(value, yes, no) { 0x15, yes, no, value }
#define RETURN(value) { 0x06, 0, 0, value }

/* Offsets into what the kernel shows a filter. */
#define CALL 0
#define ARCH 4

static const struct bpf filter[] = {
	LOAD(ARCH),
	IF_EQUAL(AUDIT_ARCH, 0, 5),
	LOAD(CALL),
	IF_EQUAL(SYS_rt_sigtimedwait, 4, 0),
	IF_EQUAL(SYS_wait4, 3, 0),
	IF_EQUAL(SYS_rt_sigprocmask, 2, 0),
	IF_EQUAL(SYS_exit_group, 1, 0),
	RETURN(SECCOMP_RET_EPERM),
	RETURN(SECCOMP_RET_ALLOW),
};

/* A kernel without seccomp runs it unconfined, as it does any container. */
static void confine(void)
{
	static const struct {
		unsigned short count;
		const struct bpf *filter;
	} program = { sizeof(filter) / sizeof(filter[0]), filter };

	sys5(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	sys5(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&program, 0, 0);
}

__attribute__((used, noreturn)) void start(long *stack)
{
	unsigned long set = 1UL << (SIGINT - 1) | 1UL << (SIGTERM - 1) | 1UL << (SIGCHLD - 1);

	(void)stack;
	sys4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, sizeof(set));
	confine();
	for (;;) {
		long sig = sys4(SYS_rt_sigtimedwait, (long)&set, 0, 0, sizeof(set));

		if (sig == SIGINT || sig == SIGTERM)
			quit(0);
		while (sys4(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
			;
	}
}
