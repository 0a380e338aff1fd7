/* Prints the layout of libfabric's structs as this machine's headers have them: `name size`, `name.field offset`. */
#include <stddef.h>
#include <stdio.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_rma.h>
#include <rdma/fi_tagged.h>

#define SIZE(type) printf(#type " %zu\n", sizeof(struct type))
#define FIELD(type, field) printf(#type "." #field " %zu\n", offsetof(struct type, field))
#define NUMBER(name) printf(#name " %llu\n", (unsigned long long)(name))

int main(void)
{
#include "layout.inc"
	return 0;
}
