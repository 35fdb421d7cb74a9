/* What all models use. A property is a name that shows in the checker's report when it is violated. */
#define PROPERTY(name) hidden byte name
#define MUST(name, holds) assert((holds) || name)
#define MIN(a, b) ((a) < (b) -> (a) : (b))
#define MAX(a, b) ((a) > (b) -> (a) : (b))
