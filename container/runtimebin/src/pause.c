/*
 * pause holds a pod's namespaces. As process 1 of a shared PID namespace it
 * also reaps orphans. It ends on SIGTERM or SIGINT.
 *
 * Process 1 receives only signals that it handles or blocks; blocking them and
 * waiting needs no signal handler and no restorer.
 */
#include "sys.h"

#define SIGINT 2
#define SIGTERM 15
#define SIGCHLD 17
#define SIG_BLOCK 0
#define WNOHANG 1

__attribute__((used, noreturn)) void start(long *stack)
{
	unsigned long set = 1UL << (SIGINT - 1) | 1UL << (SIGTERM - 1) | 1UL << (SIGCHLD - 1);

	(void)stack;
	sys4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, sizeof(set));
	for (;;) {
		long sig = sys4(SYS_rt_sigtimedwait, (long)&set, 0, 0, sizeof(set));

		if (sig == SIGINT || sig == SIGTERM)
			quit(0);
		while (sys4(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
			;
	}
}
