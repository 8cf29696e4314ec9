(** The theorems are not empty: with one acceptor, values really are chosen, by a captor under
    ballot 1 and by an unsafe write under ballot 0; and a segment is trimmed. *)
Require Import Register Arith Lia.

Definition Q (P : unit -> Prop) := P tt.
Lemma meet : forall A B, Q A -> Q B -> exists a, A a /\ B a.
Proof. intros; exists tt; split; assumption. Qed.

Notation M := (message unit unit bool).
Notation S0 := (start unit unit bool).
Definition capture : M := Capture unit unit bool 1 (fun _ => True).
Definition promise : M := Promise unit unit bool tt tt 1.
Definition report : M := Report unit unit bool tt tt 1 None.
Definition write (b : nat) : M := Write unit unit bool tt b true.
Definition accepted (b : nat) : M := Accepted unit unit bool tt tt b true.

Definition s1 : state unit unit bool := fun m => S0 m \/ capture = m.
Definition s2 : state unit unit bool :=
  fun m => s1 m \/ exists r : unit, True /\ m = Promise unit unit bool tt r 1.
Definition s3 : state unit unit bool := fun m => s2 m \/ report = m.
Definition s4 : state unit unit bool := fun m => s3 m \/ write 1 = m.
Definition s5 : state unit unit bool := fun m => s4 m \/ accepted 1 = m.
Definition u1 : state unit unit bool := fun m => S0 m \/ write 0 = m.
Definition u2 : state unit unit bool := fun m => u1 m \/ accepted 0 = m.

Ltac look := unfold s5, s4, s3, s2, s1, u2, u1, start, promised, is_row,
    capture, promise, report, write, accepted in *;
  repeat match goal with
  | H : _ \/ _ |- _ => destruct H
  | H : exists _, _ |- _ => destruct H
  | H : _ /\ _ |- _ => destruct H
  | H : False |- _ => destruct H
  | |- ~ _ => intro
  end; try discriminate; try congruence.

Ltac ballots := repeat match goal with
  | H : _ = Promise _ _ _ _ _ _ |- _ => injection H; clear H; intros; subst
  | H : Promise _ _ _ _ _ _ = _ |- _ => injection H; clear H; intros; subst
  end; lia.

Definition mark : M := Mark unit unit bool tt 0.
Definition gone : M := Gone unit unit bool tt.
Definition u3 : state unit unit bool := fun m => u2 m \/ mark = m.
Definition u4 : state unit unit bool := fun m => u3 m \/ gone = m.

Theorem captured_write_possible :
  exists s, reachable unit unit bool Q tt s /\ chosen unit unit bool Q s tt true.
Proof.
  exists s5. split.
  - apply AfterStep with s4. apply AfterStep with s3. apply AfterStep with s2.
    apply AfterStep with s1. apply AfterStep with S0. apply AtStart.
    + apply DoCapture with 1 (fun _ => True). intro; reflexivity.
    + apply DoPromise with tt 1 (fun _ => True); unfold sends; intros; try reflexivity.
      * right; reflexivity.
      * look.
      * look.
    + apply DoReport with tt tt 1 None.
      * right. exists tt; auto.
      * look.
      * simpl; intros; look.
      * intro; reflexivity.
    + apply DoWrite with tt 1 true (fun _ => True); unfold sends; intros; try reflexivity.
      * look.
      * exists None. destruct a. right. reflexivity.
      * left. intros a row _ H. look.
    + apply DoAccept with tt tt 1 true; unfold sends; intros; try reflexivity.
      * right; reflexivity.
      * look.
      * look; ballots.
  - exists 1, (fun _ => True). split; [exact I | intros [] _]. right; reflexivity.
Qed.

Theorem unsafe_write_possible :
  exists s, reachable unit unit bool Q tt s /\ chosen unit unit bool Q s tt true.
Proof.
  exists u2. split.
  - apply AfterStep with u1. apply AfterStep with S0. apply AtStart.
    + apply DoUnsafe with tt true; [intros v H; look | intro; reflexivity].
    + apply DoAccept with tt tt 0 true; unfold sends; intros; try reflexivity.
      * right; reflexivity.
      * look.
      * look.
  - exists 0, (fun _ => True). split; [exact I | intros [] _]. right; reflexivity.
Qed.

(** The one register is the trim register here: once it is decided, the segment may go. *)
Theorem trim_possible :
  exists s, reachable unit unit bool Q tt s /\ trimmed unit unit bool Q s /\ s mark.
Proof.
  assert (C : chosen_at unit unit bool Q u2 tt 0 true).
  { exists (fun _ => True). split; [exact I | intros [] _]. right; reflexivity. }
  exists u4. split; [| split].
  - apply AfterStep with u3. apply AfterStep with u2. apply AfterStep with u1.
    apply AfterStep with S0. apply AtStart.
    + apply DoUnsafe with tt true; [intros v H; look | intro; reflexivity].
    + apply DoAccept with tt tt 0 true; unfold sends; intros; try reflexivity.
      * right; reflexivity.
      * look.
      * look.
    + apply DoMark with tt 0 true; [exact C | intro; reflexivity].
    + apply DoTrim with tt true; [| intro; reflexivity].
      exists 0. destruct C as (P & HP & HV). exists P. split; auto. intros a Ha. left; auto.
  - exists (fun _ => True). split; [exact I | intros [] _]. right; reflexivity.
  - left; right; reflexivity.
Qed.

Print Assumptions captured_write_possible.
Print Assumptions unsafe_write_possible.
Print Assumptions trim_possible.
