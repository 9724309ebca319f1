// Package policy reads the file in which a product team writes its credit rules down, and prices requests by it:
// which route is an operation, how many units a request asks for at most, what a unit costs, and how many units
// the answer delivered.
//
// It is pure: bytes in, numbers or a named problem out. It refuses to know HTTP servers, Redis, Postgres and the
// clock. It refuses to guess: a file with a mistake is refused whole, with every mistake named by line and column;
// a request whose price two readers could read differently is refused before anything is held.
package policy
