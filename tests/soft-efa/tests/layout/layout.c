/* Prints the layout of the verbs structs as this machine's headers have them: `name size`, `name.field offset`. */
#include <stddef.h>
#include <stdio.h>
#include <infiniband/efadv.h>
#include <infiniband/verbs.h>

#define SIZE(kind, type) printf(#type " %zu\n", sizeof(kind type))
#define FIELD(kind, type, field) printf(#type "." #field " %zu\n", offsetof(kind type, field))
#define NUMBER(name) printf(#name " %llu\n", (unsigned long long)(name))

int main(void)
{
#include "layout.inc"
	return 0;
}
